"""CDC streams of Aurora DSQL: how they are made."""

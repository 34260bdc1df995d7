"""dsqlcdc: Aurora DSQL change streams, from every shard to your sinks, losing nothing, repeating nothing."""

from dsqlcdc.contract import Change, Misconfigured, Op, Setback, Sink, Table, Unavailable, Verdict

__version__ = "0.1.0"

__all__ = ["Change", "Misconfigured", "Op", "Setback", "Sink", "Table", "Unavailable", "Verdict", "__version__"]

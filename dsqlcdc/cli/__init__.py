"""The command line. Heavy imports stand inside the commands, so that `--help` is quick."""

from dsqlcdc.cli.app import main

__all__ = ["main"]

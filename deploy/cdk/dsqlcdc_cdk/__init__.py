"""CDK constructs: `CdcStream`, a DSQL change stream with its target and role, and `LambdaConsumer`, dsqlcdc behind a Kinesis trigger."""

from __future__ import annotations

from .alarms import RUNBOOK
from .consumer import LambdaConsumer
from .stream import CdcStream

__all__ = ["RUNBOOK", "CdcStream", "LambdaConsumer"]

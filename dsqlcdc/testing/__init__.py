"""What tests of sinks and pipelines need: sources and sinks in memory, virtual time, the embedded AWS as fixtures."""

from dsqlcdc.testing.conformance import LawBroken, check_sink
from dsqlcdc.testing.memory import MemoryShard, MemorySource, MemoryStream, RecordingSink

__all__ = ["LawBroken", "MemoryShard", "MemorySource", "MemoryStream", "RecordingSink", "check_sink"]

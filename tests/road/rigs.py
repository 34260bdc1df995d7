"""A pipeline over a stream in memory, for tests of single runs."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from dsqlcdc.core.backoff import Backoff
from dsqlcdc.core.pipeline import Pipeline, Recipe
from dsqlcdc.core.ports import Name
from dsqlcdc.core.tables import Rule, Tables
from dsqlcdc.testing import virtual
from dsqlcdc.testing.memory import MemorySource, MemoryStream, RecordingSink
from dsqlcdc.testing.records import full

from .mortal import DurableFragments, Letters, RememberingCheckpoints

RULES = {"app.*": Rule(key=("id",))}


def insert(number: int, **more: Any) -> bytes:
    return full("c", "app.t", {"id": number, **more}, number + 1)


def stream_of(*records: bytes, shards: int = 2) -> MemoryStream:
    stream = MemoryStream(shards=shards)
    names = list(stream.shards)
    for n, record in enumerate(records):
        stream.put(names[n % shards], record)
    return stream


class Bench:
    """A pipeline over a stream in memory; `again` gives the next run over the same stores."""

    def __init__(self, stream: MemoryStream, **more: Any) -> None:
        self.stream, self.letters = stream, Letters()
        self.checkpoints: Any = more.pop("checkpoints", RememberingCheckpoints())
        self.fragments: Any = more.pop("fragments", DurableFragments(["s"]))
        self.more = more

    def run(self, sink: Any, **more: Any) -> Pipeline:
        settings: dict[str, Any] = {
            "source": MemorySource(self.stream),
            "tables": Tables(RULES),
            "backoff": Backoff(0.1, 1.0),
            **self.more,
            **more,
        }
        return Pipeline(
            Recipe(
                name=Name("p", "s", self.stream.name),
                sink=sink,
                checkpoints=self.checkpoints,
                dead_letters=self.letters,
                fragments=self.fragments,
                clock=lambda: self.stream.now,
                random=lambda: 0.5,
                **settings,
            )
        )


def play(work: Coroutine[Any, Any, None]) -> None:
    virtual.run(work)


def ids(sink: RecordingSink) -> list[int]:
    return sorted((change.key or change.row or {})["id"] for change in sink.written)

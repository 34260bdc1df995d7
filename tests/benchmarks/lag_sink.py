"""A sink that counts at its own door: how long each record was under way, by shard. When all are in it says so and ends the daemon."""

from __future__ import annotations

import json
import os
import signal
import time
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from dsqlcdc.contract import Change, Context, Setback, Sink


class LagSink(Sink):
    """Options: `path` of the answer, an object of sorted milliseconds by shard; `expect`: records in all; `backlog`: they were all there at
    the start, so that each has been under way since the first came."""

    def __init__(self, path: Path, expect: int, backlog: bool) -> None:
        self._path, self._missing, self._backlog = path, expect, backlog
        self._first = 0
        self._lags: dict[str, array[float]] = {}

    @classmethod
    def from_options(cls, options: Mapping[str, Any], context: Context) -> Self:
        return cls(Path(options["path"]), options["expect"], options["backlog"])

    async def probe(self) -> bool:
        return True

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        now = time.time_ns()
        self._first = self._first or now
        for change in changes:
            found = self._lags.get(change.shard)
            if found is None:
                found = self._lags[change.shard] = array("d")
            found.append((now - (self._first if self._backlog else change.version)) / 1e6)
        self._missing -= len(changes)
        if self._missing == 0:
            self._path.write_text(json.dumps({shard: sorted(lags) for shard, lags in self._lags.items()}))
            os.kill(os.getpid(), signal.SIGTERM)
        return ()

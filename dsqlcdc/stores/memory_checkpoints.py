"""Checkpoints in memory: for tests, dry runs and where every start may begin from the config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from dsqlcdc.core.ports import Checkpoint, Commit, Gap, Name
from dsqlcdc.core.records import Mark
from dsqlcdc.stores.hold import held, not_held
from dsqlcdc.stores.progress import advance


class MemoryCheckpoints:
    """A CheckpointStore whose state lives as long as the object, through `close` too, which lets go of what is held.

    It keeps no memories: the source reads the last `lateness` again at start.
    """

    remembers = False

    def __init__(self) -> None:
        self._held: set[tuple[str, str]] = set()
        self._marks: dict[Name, dict[str, Mark]] = {}
        self._words: dict[Name, bytes] = {}
        self._gaps: dict[tuple[str, str], Gap] = {}

    async def hold(self, name: Name) -> None:
        if (name.pipeline, name.sink) in self._held:
            raise held(name, "it runs in this process already")
        self._held.add((name.pipeline, name.sink))

    async def load(self, name: Name) -> Checkpoint | None:
        if name not in self._marks:
            return None
        return Checkpoint(marks=dict(self._marks[name]), word=self._words.get(name, b""))

    async def commit(self, name: Name, commit: Commit) -> None:
        stored = self._marks.get(name, {})
        marks = {**stored, **advance(name, stored, commit.marks)}
        self._marks[name] = {shard: mark for shard, mark in marks.items() if shard not in set(commit.forget)}
        if commit.word is not None:
            self._words[name] = commit.word

    async def reset(self, name: Name, marks: Mapping[str, Mark], *, gaps: Sequence[Gap] = (), forget: bool = False) -> None:
        """See ResettableStore.reset. There are no memories to forget."""
        if (name.pipeline, name.sink) not in self._held:
            raise not_held(name)
        self._marks[name] = {**self._marks[name], **marks}
        self._words.pop(name, None)
        for gap in gaps:
            await self.record_gap(gap)

    async def names(self) -> Sequence[Name]:
        return list(self._marks)

    async def record_gap(self, gap: Gap) -> Gap:
        return self._gaps.setdefault((gap.pipeline, gap.id), gap)

    async def gaps(self, pipeline: str) -> Sequence[Gap]:
        return sorted((gap for (owner, _), gap in self._gaps.items() if owner == pipeline), key=lambda gap: (gap.found_at, gap.id))

    async def ack_gap(self, pipeline: str, id: str, reason: str, at: float) -> Gap:
        gap = self._gaps[pipeline, id]
        if not gap.acked:
            gap = self._gaps[pipeline, id] = acknowledged(gap, reason, at)
        return gap

    async def end_gap(self, pipeline: str, id: str, *, until: str, to_time: float) -> Gap:
        gap = self._gaps[pipeline, id] = ended(self._gaps[pipeline, id], until, to_time)
        return gap

    async def close(self) -> None:
        self._held.clear()


def acknowledged(gap: Gap, reason: str, at: float) -> Gap:
    """The gap as acknowledged. Raises ValueError for an empty reason, which would leave it unacknowledged."""
    if not reason:
        raise ValueError("a gap is acknowledged with a reason")
    return msgspec.structs.replace(gap, acked=reason, acked_at=at)


def ended(gap: Gap, until: str, to_time: float) -> Gap:
    """The gap with its end, unless it has one."""
    return gap if gap.to_time else msgspec.structs.replace(gap, until=until, to_time=to_time)

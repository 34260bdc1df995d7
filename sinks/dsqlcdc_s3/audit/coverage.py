"""Was every shard read without a gap, from its start to its head, and does everything that was read add up?

Of every run and shard: what was open before + read = Σ settled + open. Of a shard from run to run: the next one begins at the last frontier or
before it. Of a stream: a shard is read only after its parents have been read to their ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from dsqlcdc_s3.account import behind
from dsqlcdc_s3.manifest import Manifest, Read, Seal, ShardState

Find = Callable[[str, str, str], None]
"""(code, where, what): something is missing or does not add up."""
Run = tuple[int, str]
"""A run by its epoch and writer."""
_SEALED: Run = (0, "")
"""No run: what is known of a shard, a seal has said."""
_REOPENING = ("trimmed", "reset", "replaced", "recreated")
"""Kinds of gaps that let reading begin behind what was read before."""


class Shard(msgspec.Struct, kw_only=True):
    """A shard as the chain has told it so far. `run`: the run that told last, by epoch and writer.

    `reached`: everything at or before it was settled, by one run or another. `pending`: up to where earlier runs had settled, while this one,
    which began anew, has not shown whether it met that. `unread_since`: the seal that listed it first though nobody had read it.
    """

    run: Run
    start: str = ""
    end: str = ""
    reached: str = ""
    open: int = 0
    ended: bool = False
    parents: Sequence[str] = ()
    read: bool = False
    pending: str = ""
    unread_since: int = 0


class Coverage:
    """All shards of a chain, fed manifest by manifest. Of all runs together: read = Σ settled + open + left; `left` was open when a run ended."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self.shards: dict[str, Shard] = {}
        self.gaps: dict[str, Mapping[str, Any]] = {}
        self.read = self.left = 0
        self.settled: dict[str, int] = {}
        self._stream = ""
        self._first: Run | None = None
        self._doubts: list[tuple[str, str, str, str]] = []

    @property
    def open(self) -> int:
        return sum(shard.open for shard in self.shards.values())

    def begin_at(self, seal: Manifest) -> None:
        """Take the positions of a seal as given: what is judged begins behind it."""
        told = seal.seal
        assert told is not None
        self._stream, self._first = seal.stream, _SEALED
        for state in told.shards:
            self.shards[state.shard] = Shard(
                run=(seal.epoch, seal.writer),
                start=state.start,
                end=state.end,
                reached=state.frontier or ("" if state.open else state.end),
                open=state.open,
                ended=state.ended,
                parents=state.parents,
                read=_was_read(state),
            )
        self.know(told.gaps)

    def know(self, gaps: Sequence[Mapping[str, Any]]) -> None:
        for gap in gaps:
            self.gaps[str(gap.get("id", len(self.gaps)))] = gap

    def take(self, manifest: Manifest, where: str) -> None:
        """The next manifest of the chain."""
        for account in manifest.carried:
            self._take(account.stream, (account.epoch, account.writer), account.reads, where)
        self._take(manifest.stream, (manifest.epoch, manifest.writer), manifest.reads, where)
        if manifest.seal is not None:
            self.know(manifest.seal.gaps)
            self._sealed(manifest, manifest.seal, where)

    def _take(self, stream: str, run: Run, reads: Sequence[Read], where: str) -> None:
        if reads and stream and stream != self._stream:
            self._moved(stream, where)
        self._first = self._first or run
        for read in reads:
            self._read(run, read, where)

    def _moved(self, stream: str, where: str) -> None:
        """Another stream from here on: what the one before still held must be known to be lost."""
        for name, shard in self.shards.items() if self._stream else ():
            if not shard.ended:
                self._doubt("stream", name, where, f"{name} of {self._stream} was not read to its end, and {stream} is read from here on")
        if self._stream:
            self.left += self.open
            self.shards, self._first = {}, None
        self._stream = stream

    def _read(self, run: Run, read: Read, where: str) -> None:
        name, shard = read.shard, self.shards.get(read.shard)
        again = shard is not None and shard.run == run
        before, pending, start = 0, "", read.start
        if shard is None:
            if run != self._first and (read.start.isdigit() or read.start == "end"):
                self._doubt("trimmed", name, where, f"nothing is told of {name} before {read.start}")
        elif again:
            before, pending, start = shard.open, shard.pending, shard.start
            if read.start != (shard.end or shard.start):
                self._find("gap", where, f"{name} was read up to {shard.end or shard.start}, and the same run goes on at {read.start}")
        else:
            self.left += shard.open
            pending = self._succeed(shard, read, where)
        if pending and read.first:
            if behind(pending, read.first):
                self._doubt("trimmed", name, where, f"{name} was settled up to {pending}, and the next run's first record is {read.first}")
            pending = ""
        settled = sum(read.settled.values())
        if before + read.read != settled + read.open or read.read < 0 or any(count < 0 for count in read.settled.values()):
            self._find("counts", where, f"{name}: {before} open + {read.read} read is not {settled} settled + {read.open} open")
        self.read += read.read
        for outcome, count in read.settled.items():
            self.settled[outcome] = self.settled.get(outcome, 0) + count
        frontier = read.frontier or ("" if read.open else read.end)
        reached = shard.reached if shard is not None else ""
        self.shards[name] = Shard(
            run=run,
            start=start,
            end=read.end or (shard.end if shard is not None and again else ""),
            reached=frontier if behind(reached, frontier) else reached,
            open=read.open,
            ended=read.ended or (shard is not None and shard.ended),
            parents=shard.parents if shard is not None else (),
            read=bool(read.read) or read.ended or (shard is not None and shard.read),
            pending=pending,
        )

    def _succeed(self, shard: Shard, read: Read, where: str) -> str:
        """A run takes a shard over from the one before. What was settled, where only the first record will tell whether that was met; else ""."""
        reached = shard.reached
        if reached == "end":
            return ""
        if read.start.isdigit():
            if not (reached and not behind(reached, read.start)) and read.start != shard.start:
                what = f"{read.shard} was settled up to {reached or shard.start or 'nowhere'}, and the next run begins at {read.start}"
                self._doubt("trimmed", read.shard, where, what)
            return ""
        if read.start == "end":
            if not shard.ended or shard.open:
                what = f"{read.shard} was read up to {shard.end or shard.start}, and the next run takes it for read to its end"
                self._doubt("trimmed", read.shard, where, what)
            return ""
        if not reached and shard.start and read.start != shard.start:
            what = f"{read.shard} was to be read from {shard.start}, and the next run begins at {read.start}"
            self._doubt("trimmed", read.shard, where, what)
        return reached

    def _doubt(self, kind: str, name: str, where: str, what: str) -> None:
        """Something is missing, unless a gap that is declared later explains it."""
        self._doubts.append((kind, name, where, what))

    def _sealed(self, manifest: Manifest, seal: Seal, where: str) -> None:
        for state in seal.shards:
            name, shard = state.shard, self.shards.get(state.shard)
            if shard is None:
                shard = self.shards[name] = Shard(run=_SEALED, start=state.start)
            elif shard.run == (manifest.epoch, manifest.writer) and (shard.end, shard.open) != (state.end, state.open):
                what = f"{name} stands at {state.end}, {state.open} open; the manifests say {shard.end}, {shard.open} open"
                self._find("position", where, what)
            shard.parents = state.parents or shard.parents
            shard.read = shard.read or _was_read(state)
        for state in seal.shards:
            shard = self.shards[state.shard]
            for parent in shard.parents if shard.end else ():
                other = self.shards.get(parent)
                if other is not None and not other.ended:
                    self._find("lineage", where, f"{state.shard} was read before its parent {parent} had been read to its end")
            if shard.read:
                shard.unread_since = 0
            elif not shard.unread_since and self._due(shard):
                shard.unread_since = manifest.n

    def _due(self, shard: Shard) -> bool:
        """May it be read by now? Its parents have been."""
        return all(parent not in self.shards or self.shards[parent].ended for parent in shard.parents)

    def end(self, last_seal: int) -> None:
        """The chain ends here: what nobody has explained by now is missing."""
        for name, shard in self.shards.items():
            if not shard.read and shard.unread_since and shard.unread_since < last_seal:
                self._find("unread", name, f"the shard is listed since manifest {shard.unread_since} and was never read")
        for name, shard in self.shards.items():
            if shard.pending:
                self._doubt(
                    "trimmed", name, name, f"it was settled up to {shard.pending}, and was begun anew by a run that met no record of it"
                )
        for kind, name, where, what in self._doubts:
            if not self._declared(kind, name):
                self._find("gap", where, f"{what}; no gap explains it")

    def _declared(self, kind: str, name: str) -> bool:
        if kind == "stream":
            return any(gap.get("kind") in ("replaced", "recreated") for gap in self.gaps.values())
        return any(gap.get("kind") in _REOPENING and gap.get("shard") in ("", name) for gap in self.gaps.values())


def _was_read(state: ShardState) -> bool:
    """Somebody has read of it, or seen that there was nothing."""
    return bool(state.end) or bool(state.arrived) or state.ended or bool(state.frontier)

"""The account of a chain: what its manifests tell of every shard, so that read = Σ settled + open can be shown from the lake alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from dsqlcdc.contract import Progress
from dsqlcdc_s3.manifest import Account, Manifest, Read


class Books:
    """What one run has told, what it has not, and what runs before it left untold.

    What is not told yet goes into the word that is stored with every commit: so what was settled and committed, and never came into a manifest
    because the run was killed, is told by the run after it.
    """

    def __init__(self, epoch: int = 0, writer: str = "", stream: str = "", progress: Callable[[], Sequence[Progress]] = tuple) -> None:
        self._epoch, self._writer, self._stream, self._progress = epoch, writer, stream, progress
        self._reported: Mapping[str, Progress] = {}
        self._base = 0
        self.carried: list[Account] = []

    def carry(self, accounts: Sequence[Account], base: int, manifests: Sequence[Manifest]) -> None:
        """Take over what the state store says no manifest tells, but for what these, in order, do tell. `base`: the last of the chain."""
        self._base, self.carried = base, list(accounts)
        for manifest in manifests:
            self._reduce(manifest)

    def untold(self, progress: Sequence[Progress]) -> list[Read]:
        """What was read and settled since this run told last, by shard; shards where nothing happened are left out."""
        return differences(progress, self._reported)

    def told(self, n: int, progress: Sequence[Progress], carried: Sequence[Account]) -> None:
        """A manifest of ours with all this is in."""
        self._base, self._reported = n, {shard.shard: shard for shard in progress}
        done = {(account.epoch, account.writer) for account in carried}
        self.carried = [account for account in self.carried if (account.epoch, account.writer) not in done]

    def met(self, manifest: Manifest) -> None:
        """A manifest that somebody else claimed, or that we did and gave up: what it tells is told."""
        if (manifest.epoch, manifest.writer) == (self._epoch, self._writer):
            reported = dict(self._reported)
            for read in manifest.reads:
                reported[read.shard] = _advanced(reported.get(read.shard), read)
            self._reported, self._base = reported, manifest.n
        self._reduce(manifest)

    def accounts(self) -> list[Account]:
        """What no manifest tells at this moment."""
        own = [read for read in self.untold(self._progress()) if read.read or read.settled or read.frontier not in ("", read.start)]
        return [*self.carried, Account(self._epoch, self._writer, self._stream, self._base, own)] if own else list(self.carried)

    def _reduce(self, manifest: Manifest) -> None:
        told = {(account.epoch, account.writer) for account in manifest.carried}
        left: list[Account] = []
        for account in self.carried:
            run = (account.epoch, account.writer)
            if manifest.n > account.base and run == (manifest.epoch, manifest.writer):
                reads = _without(account.reads, manifest.reads)
                account = msgspec.structs.replace(account, base=manifest.n, reads=reads)
            if account.reads and not (manifest.n > account.base and run in told):
                left.append(account)
        self.carried = left


def differences(now: Sequence[Progress], before: Mapping[str, Progress]) -> list[Read]:
    """What was read and settled per shard since `before`, by shard; shards where nothing happened are left out."""
    reads: list[Read] = []
    for progress in sorted(now, key=lambda p: p.shard):
        last = before.get(progress.shard)
        if last is not None and _same(last, progress):
            continue
        base: Mapping[str, int] = last.settled if last else {}
        settled = {name: count - base.get(name, 0) for name, count in progress.settled.items() if count != base.get(name, 0)}
        reads.append(
            Read(
                progress.shard,
                (last.sequence if last else "") or progress.start,
                progress.sequence,
                progress.read - (last.read if last else 0),
                settled,
                progress.open,
                progress.frontier,
                progress.ended,
                progress.first,
            )
        )
    return reads


def _same(one: Progress, two: Progress) -> bool:
    return (one.read, one.settled, one.frontier, one.ended) == (two.read, two.settled, two.frontier, two.ended)


def _advanced(last: Progress | None, read: Read) -> Progress:
    counts = dict(last.settled) if last is not None else {}
    for outcome, count in read.settled.items():
        counts[outcome] = counts.get(outcome, 0) + count
    start = last.start if last is not None else read.start
    total = read.read + (last.read if last is not None else 0)
    return Progress(read.shard, start, read.end, total, counts, read.open, read.ended, read.frontier, first=read.first)


def _without(reads: Sequence[Read], told: Sequence[Read]) -> list[Read]:
    """What is left of an account's reads when a manifest of the same run has told these.

    The counts of a run only grow: where a difference would be negative the manifest is the newer of the two, and tells it all.
    """
    by_shard = {read.shard: read for read in told}
    left: list[Read] = []
    for read in reads:
        other = by_shard.get(read.shard)
        if other is None:
            left.append(read)
            continue
        settled = {name: read.settled.get(name, 0) - other.settled.get(name, 0) for name in {*read.settled, *other.settled}}
        settled = {name: count for name, count in sorted(settled.items()) if count}
        count = read.read - other.read
        grown = count > 0 or any(number > 0 for number in settled.values())
        if count < 0 or any(number < 0 for number in settled.values()):
            continue
        if grown or behind(other.frontier, read.frontier):
            left.append(msgspec.structs.replace(read, start=other.end or other.start, read=count, settled=settled))
    return left


def behind(one: str, two: str) -> bool:
    """Is the position `one` before `two`? Sequence numbers are decimal numbers of any length; "" is before all of them, "end" behind."""
    return _order(one) < _order(two)


def _order(position: str) -> tuple[int, int, str]:
    return (1, 0, "") if position == "end" else (0, len(position), position)

"""How far back the sink's word must point: what is in the lake, and may still be read again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from dsqlcdc.contract import Change, Progress, Setback, Verdict
from dsqlcdc_s3.delivered import Delivered, position

Furthest = Mapping[str, tuple[int, str]]
"""By shard the furthest position of some lines."""


class Memory:
    """The manifests with lines that no frontier has passed yet, and the lines of others that the pipeline does not know of.

    A manifest counts as committed when every shard's frontier has passed its lines: then no restart reads them again, whatever else the
    pipeline's store remembers (sinks.md §3.2: the oldest manifest that is not known complete and committed).
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, Furthest]] = deque()
        self.untold: dict[bytes, int] = {}

    def wrote(self, n: int, furthest: Furthest) -> None:
        """The pipeline knows, or will at once, that lines up to these positions are in, none of them before manifest `n`."""
        if furthest:
            self._waiting.append((n, furthest))

    def learn(self, delivered: Delivered, n: int) -> None:
        """Lines of manifest `n`, found in mid-run: the pipeline is told when they come in a batch."""
        for id in delivered.ids:
            self.untold.setdefault(id, n)
        self.wrote(n, delivered.furthest)

    def settled(self, changes: Sequence[Change], setbacks: Iterable[Setback]) -> None:
        """The pipeline is told by these setbacks."""
        if self.untold:
            for setback in setbacks:
                if setback.verdict is Verdict.DUPLICATE:
                    self.untold.pop(changes[setback.index].id, None)

    def oldest(self, otherwise: int, progress: Sequence[Progress]) -> int:
        """The oldest manifest with lines that may be read again, `otherwise` if there is none."""
        frontiers = {shard.shard: shard.frontier for shard in progress}
        while self._waiting and all(_passed(frontiers.get(shard, ""), at) for shard, at in self._waiting[0][1].items()):
            self._waiting.popleft()
        oldest = min(self.untold.values(), default=otherwise)
        return min(oldest, self._waiting[0][0]) if self._waiting else oldest


def furthest(changes: Iterable[Change]) -> Furthest:
    """By shard the furthest position of these changes."""
    found: dict[str, str] = {}
    for change in changes:
        known, sequence = found.get(change.shard, ""), change.sequence
        if len(sequence) > len(known) or (len(sequence) == len(known) and sequence > known):
            found[change.shard] = sequence
    return {shard: position(sequence) for shard, sequence in found.items()}


def _passed(frontier: str, at: tuple[int, str]) -> bool:
    return frontier == "end" or position(frontier) >= at

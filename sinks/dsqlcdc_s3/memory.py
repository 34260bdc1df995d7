"""What the sink knows to be in beyond what the pipeline has committed, and so how far back its word must point."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dsqlcdc.contract import Change, Progress, Setback, Verdict
from dsqlcdc_s3.delivered import Delivered, position


class Memory:
    """Lines found in manifests of earlier writers, and of batches that we gave up.

    Those found at start are told to the pipeline: they hold the word back until every one has been read again, and settled as a
    duplicate. Those found later are told when they come in a batch.
    """

    def __init__(self) -> None:
        self._told: dict[str, tuple[int, str]] = {}
        self._told_from = 0
        self.untold: dict[bytes, int] = {}

    def tell(self, furthest: Mapping[str, tuple[int, str]], n: int) -> None:
        """The pipeline is told at start of lines up to these positions, the oldest of them in manifest `n`."""
        self._told, self._told_from = dict(furthest), n

    def learn(self, delivered: Delivered, n: int) -> None:
        """Lines of manifest `n`, found in mid-run."""
        for id in delivered.ids:
            self.untold.setdefault(id, n)

    def settled(self, changes: Sequence[Change], setbacks: Iterable[Setback]) -> None:
        """The pipeline is told by these setbacks."""
        if self.untold:
            for setback in setbacks:
                if setback.verdict is Verdict.DUPLICATE:
                    self.untold.pop(changes[setback.index].id, None)

    def oldest(self, otherwise: int, progress: Sequence[Progress]) -> int:
        """The oldest manifest whose lines the pipeline may not have committed, `otherwise` if there is none."""
        for shard in progress:
            told = self._told.get(shard.shard)
            if told is not None and (shard.ended or position(shard.sequence) >= told):
                del self._told[shard.shard]
        found = min(self.untold.values(), default=otherwise)
        return min(found, self._told_from) if self._told else found

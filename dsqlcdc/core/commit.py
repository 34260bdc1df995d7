"""The commit: the ledger's frontier, what the sequencer learnt and the sink's word, stored as one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from dsqlcdc.core.ledger import Ledger
from dsqlcdc.core.patience import Patience
from dsqlcdc.core.ports import CheckpointStore, Commit, Memory, Name
from dsqlcdc.core.reassemble import Reassembler
from dsqlcdc.core.records import Mark
from dsqlcdc.core.sequence import Sequencer
from dsqlcdc.core.telemetry import Counts


class Committer:
    """Moves one run's checkpoint. The only place that does."""

    def __init__(
        self,
        name: Name,
        store: CheckpointStore,
        *,
        ledger: Ledger,
        sequencer: Sequencer,
        reassembler: Reassembler,
        marks: Mapping[str, Mark],
        word: bytes,
        lateness: float,
        patience: Patience,
        counts: Counts,
        clock: Callable[[], float],
        account: Callable[[bytes], bytes] = bytes,
    ) -> None:
        self._name, self._store, self._ledger, self._sequencer, self._reassembler = name, store, ledger, sequencer, reassembler
        self.marks, self._stored_word, self.word = dict(marks), word, word
        self._stored_told = word
        self._lateness, self._patience, self._counts, self._clock = lateness, patience, counts, clock
        self._account = account
        self._unsaved: Memory | None = None

    async def commit(self) -> None:
        """Store what has moved since the last commit; nothing when nothing has. Raises Misconfigured, Stopped; then nothing is lost: the next
        commit takes the same."""
        self._ledger.check()
        # One moment: rows done, frontier, memory and word belong together; nothing is awaited between them.
        rows = self._reassembler.finished()
        moved = {shard: mark for shard, mark in self._ledger.frontier().items() if self.marks.get(shard) != mark}
        self._unsaved = _merge(self._unsaved, self._sequencer.take_memory())
        word = self.word
        if not (moved or rows or self._unsaved or word != self._stored_word):
            return
        marks = {**self.marks, **moved}
        told = self._account(word)
        horizon = min((m.arrived for m in marks.values() if m.position.kind != "end"), default=0.0) - self._lateness
        memory = self._unsaved if self._store.remembers else None
        commit = Commit(moved, memory, horizon, told if told != self._stored_told else None)
        # A done mark makes the row's records duplicates for ever, so what the row was must be known by then: its id, so that no copy goes in
        # again, or its version, so that no older one does. Where only reading again tells, versions need the frontier first.
        if rows and memory is not None:
            await self._patience.ask(lambda: self._store.commit(self._name, Commit({}, memory)))
            commit, self._unsaved = msgspec.structs.replace(commit, memory=None), None
        late = not self._store.remembers and self._sequencer.kind == "latest"
        if not late:
            await self._patience.ask(lambda: self._reassembler.done(rows))
        await self._patience.ask(lambda: self._store.commit(self._name, commit))
        if late:
            await self._patience.ask(lambda: self._reassembler.done(rows))
        self.marks.update(moved)
        self._stored_word, self._stored_told, self._unsaved = word, told, None
        self._sequencer.forget(horizon)
        self._counts.commits += 1
        self._counts.committed_at = self._clock()


def _merge(one: Memory | None, two: Memory | None) -> Memory | None:
    if one is None or two is None:
        return two or one
    return Memory(two.kind, max(one.newest, two.newest), one.blob + two.blob)

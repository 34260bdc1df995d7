"""Checkpoints in one DynamoDB table for all pipelines: one item for each pipeline and sink, every commit one conditional write of it."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote, unquote

import msgspec

from dsqlcdc.aws import Aws
from dsqlcdc.core.ports import Checkpoint, Commit, Gap, Name
from dsqlcdc.core.records import Mark
from dsqlcdc.errors import Fault, Misconfigured, Unavailable
from dsqlcdc.stores.dynamodb_items import HEAD, DynamoItems, Item, Items
from dsqlcdc.stores.head import ROOM, Content, Head, Kept, fit, joined, marks_of, named, read_content, read_head, write_content
from dsqlcdc.stores.memory_checkpoints import acknowledged, ended
from dsqlcdc.stores.progress import advance
from dsqlcdc.stores.tenure import Tenure

log = logging.getLogger("dsqlcdc.dynamodb")

IDLE = 60.0
"""Seconds for which a runner keeps to itself that time has passed without a record (a mark's `arrived` alone moved)."""
_TRIES = 5
_SINK = "sink/"
_GAP = "gap/"
_PIECE = "piece/"

_gap = msgspec.json.Decoder(Gap).decode


class DynamoCheckpoints:
    """A CheckpointStore in the DynamoDB table `table`; with `create` the first write makes it. The client opens at the first call.

    Who holds writes at most once a commit: an item of some hundred bytes for a few shards, about 60 bytes a shard; beyond 300 KB the marks
    are cut into items of their own, which become valid by one write of the head. While no record comes it writes once a minute and reads
    one small item a beat, eventually consistent. Commits without `hold` are taken only while nobody holds.

    `beat` and `looks`: see Tenure; a holder that died is succeeded after `looks` beats. Raises Unavailable where DynamoDB cannot be asked or
    throttles; Held (E201) from `hold`, and from `commit` once another has taken over; Misconfigured (E102 to E106 as AWS says; E202, E203,
    E205, E206). Keeps no memories: the source reads the last `lateness` again at start. A call that is cancelled is stored whole or not at all.
    """

    remembers = False

    def __init__(
        self,
        table: str,
        aws: Aws | None = None,
        *,
        create: bool = False,
        read_only: bool = False,
        clock: Callable[[], float] = time.time,
        items: Items | None = None,
        beat: float = 1.0,
        looks: int = 6,
        room: int = ROOM,
    ) -> None:
        self._items = items if items is not None else DynamoItems(table, aws or Aws(), create=create)
        self._read_only, self._clock, self._beat, self._looks, self._room = read_only, clock, beat, looks, room
        self._seats: dict[str, _Seat] = {}

    async def hold(self, name: Name) -> None:
        """Become the one runner until `close`. Raises Held (E201), after having seen for some seconds that the holder lives."""
        if self._read_only:
            raise Misconfigured("The state cannot be held", where=_pk(name), why="it was opened for reading only", code="E204")
        seat = self._seat(name)
        await seat.tenure.take()
        await self._sweep(seat)

    async def load(self, name: Name) -> Checkpoint | None:
        for _ in range(_TRIES):
            head = await self._items.get(_pk(name), HEAD)
            kept = read_head(head.body, _pk(name)).streams.get(name.stream) if head is not None else None
            if kept is None:
                return None
            content = await self._content(_pk(name), kept)
            if content is not None:
                waiting = self._seats[_pk(name)].waiting if _pk(name) in self._seats else {}
                return Checkpoint({**marks_of(content), **waiting.get(name.stream, {})}, word=content.word)
        raise _moves(_pk(name))

    async def commit(self, name: Name, commit: Commit) -> None:
        """Store, durably and atomically, but for the passing of time alone (see IDLE). Raises Held once another has taken over: then, and
        whenever a mark would move back (Misconfigured, E205), nothing is stored."""
        if self._read_only:
            raise Misconfigured("The state cannot be written", where=_pk(name), why="it was opened for reading only", code="E204")
        seat = self._seat(name)
        async with seat.tenure.lock:
            for _ in range(_TRIES):
                if await self._commit(seat, name, commit):
                    return
        raise _moves(seat.pk)

    async def _commit(self, seat: _Seat, name: Name, commit: Commit) -> bool:
        over = await seat.tenure.stand()
        head = read_head(over.body, seat.pk) if over is not None else Head()
        kept = head.streams.get(name.stream)
        content = Content() if kept is None else await self._known(seat, name.stream, kept)
        if content is None:
            raise Misconfigured("The state is damaged", where=seat.pk, why="a piece of the checkpoint is missing", code="E203")
        stored = {**marks_of(content), **seat.waiting.get(name.stream, {})}
        moved = advance(name, stored, commit.marks)
        now = asyncio.get_running_loop().time()
        if kept is not None and seat.tenure.held and now < seat.written + IDLE and _only_time(stored, moved, commit):
            seat.waiting[name.stream] = {**seat.waiting.get(name.stream, {}), **moved}
            return True
        gone = set(commit.forget)
        marks = {shard: mark for shard, mark in {**stored, **moved}.items() if shard not in gone}
        word = content.word if commit.word is None else commit.word
        data = write_content(word, marks)
        version = over.version + 1 if over is not None else 1
        stem = f"{_PIECE}{version:020}-{secrets.token_hex(8)}"  # its own at each attempt: an earlier one may still take effect
        new, pieces = fit(msgspec.structs.replace(head, streams={**head.streams, name.stream: Kept(data)}), self._room, stem)
        for piece, body in pieces.items():
            await self._items.put(Item(seat.pk, piece, body=body))
        if not await seat.tenure.write(over, new):
            return False
        seat.written = now
        seat.waiting.pop(name.stream, None)
        seat.known[name.stream] = new.streams[name.stream], read_content(data, seat.pk)
        await self._drop(seat.pk, named(head.streams) - named(new.streams))
        return True

    async def names(self) -> Sequence[Name]:
        found: list[Name] = []
        for head in await self._items.heads():
            if not head.pk.startswith(_SINK):
                continue
            pipeline, sink = _names_in(head.pk)
            found += [Name(pipeline, sink, stream) for stream in read_head(head.body, head.pk).streams]
        return found

    async def record_gap(self, gap: Gap) -> Gap:
        item = Item(_gaps_pk(gap.pipeline), _GAP + gap.id, body=msgspec.json.encode(gap))
        if await self._items.create(item):
            return gap
        stored = await self._items.get(item.pk, item.sk)
        return _gap(stored.body) if stored is not None else gap

    async def gaps(self, pipeline: str) -> Sequence[Gap]:
        """The pipeline's gaps, in the order in which they were found."""
        found = [_gap(item.body) for item in await self._items.query(_gaps_pk(pipeline), _GAP)]
        return sorted(found, key=lambda gap: (gap.found_at, gap.id))

    async def ack_gap(self, pipeline: str, id: str, reason: str, at: float) -> Gap:
        """Acknowledge. Raises KeyError for an unknown id, ValueError for an empty reason."""
        return await self._change_gap(pipeline, id, lambda gap: gap if gap.acked else acknowledged(gap, reason, at))

    async def end_gap(self, pipeline: str, id: str, *, until: str, to_time: float) -> Gap:
        """See CheckpointStore.end_gap."""
        return await self._change_gap(pipeline, id, lambda gap: ended(gap, until, to_time))

    async def _change_gap(self, pipeline: str, id: str, change: Callable[[Gap], Gap]) -> Gap:
        for _ in range(_TRIES):
            stored = await self._items.get(_gaps_pk(pipeline), _GAP + id)
            if stored is None:
                raise KeyError((pipeline, id))
            before = _gap(stored.body)
            gap = change(before)
            if gap == before:
                return gap
            if await self._items.replace(
                msgspec.structs.replace(stored, version=stored.version + 1, body=msgspec.json.encode(gap)), stored
            ):
                return gap
        raise _moves(_gaps_pk(pipeline))

    async def close(self) -> None:
        """Let go of what is held and close the connections. Twice is no error."""
        try:
            await asyncio.gather(*(self._leave(seat) for seat in self._seats.values()))
        finally:
            self._seats = {}
            await self._items.close()

    def _seat(self, name: Name) -> _Seat:
        pk = _pk(name)
        if pk not in self._seats:
            tenure = Tenure(self._items, pk, name, beat=self._beat, looks=self._looks, clock=self._clock)
            self._seats[pk] = _Seat(pk, tenure)
        return self._seats[pk]

    async def _leave(self, seat: _Seat) -> None:
        """Let go; before, say how much time has passed, when it can be said: less is true too."""
        seat.written = -math.inf
        pipeline, sink = _names_in(seat.pk)
        for stream, marks in list(seat.waiting.items()):
            try:
                async with asyncio.timeout(5.0):
                    await self.commit(Name(pipeline, sink, stream), Commit(marks))
            except (Fault, TimeoutError) as error:
                log.info("%s: the passing of time was not stored (%s)", seat.pk, error)
        await seat.tenure.leave()

    async def _known(self, seat: _Seat, stream: str, kept: Kept) -> Content | None:
        known = seat.known.get(stream)
        return known[1] if known is not None and known[0] == kept else await self._content(seat.pk, kept)

    async def _content(self, pk: str, kept: Kept) -> Content | None:
        """None where a piece is missing: a later commit has replaced it."""
        pieces = [await self._items.get(pk, piece) for piece in kept.pieces]
        bodies = [piece.body for piece in pieces if piece is not None]
        return read_content(joined(kept, bodies), pk) if len(bodies) == len(pieces) else None

    async def _sweep(self, seat: _Seat) -> None:
        """Remove pieces that a crash left: their writers cannot make them valid any more."""
        async with seat.tenure.lock:
            try:
                head = await seat.tenure.stand()
                valid = named(read_head(head.body, seat.pk).streams) if head is not None else set[str]()
                left = {item.sk for item in await self._items.query(seat.pk, _PIECE)} - valid
            except Unavailable as error:
                log.debug("%s: not swept until the next start (%s)", seat.pk, error)
                return
            await self._drop(seat.pk, left)

    async def _drop(self, pk: str, pieces: set[str]) -> None:
        for piece in sorted(pieces):
            try:
                await self._items.delete(pk, piece)
            except Unavailable as error:
                log.debug("%s: %s stays until the next start (%s)", pk, piece, error)


class _Seat:
    """What a store knows of one pipeline and sink. `waiting`: marks of which only the time moved, not written yet, by stream."""

    def __init__(self, pk: str, tenure: Tenure) -> None:
        self.pk, self.tenure = pk, tenure
        self.written = -math.inf
        self.waiting: dict[str, dict[str, Mark]] = {}
        self.known: dict[str, tuple[Kept, Content]] = {}


def _only_time(stored: Mapping[str, Mark], moved: Mapping[str, Mark], commit: Commit) -> bool:
    """Does the commit say nothing but that time passed?"""
    if commit.word is not None or set(commit.forget) & stored.keys():
        return False
    return all(shard in stored and stored[shard].position == mark.position for shard, mark in moved.items())


def _moves(pk: str) -> Unavailable:
    return Unavailable("The state is being written by others", where=pk, why=f"it had moved at each of {_TRIES} attempts", code="E212")


def _pk(name: Name) -> str:
    return f"{_SINK}{_word(name.pipeline)}/{_word(name.sink)}"


def _gaps_pk(pipeline: str) -> str:
    return f"pipeline/{_word(pipeline)}"


def _word(text: str) -> str:
    return quote(text, safe="")


def _names_in(pk: str) -> tuple[str, str]:
    pipeline, sink = pk.removeprefix(_SINK).split("/")
    return unquote(pipeline), unquote(sink)

"""Who may write a head: ownership by a token and a version that moves, judged by what each process itself observes.

No clock is compared with another's. The head carries its owner's token and a version that every write moves on by one; a write goes in only
over the very token and version that the writer saw. So a writer that was succeeded, paused or delayed can change nothing any more, and
whoever succeeds too early does no harm but to end the other's run.

A contender leaves a note and looks at the head, a beat apart. An owner reads the note once a beat and answers by moving the version; its
commits move it too. Two moves, and the owner lives (one may be a dead owner's last write, still on its way). No move in `looks` looks, and
it is succeeded.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec

from dsqlcdc.core.ports import Name
from dsqlcdc.errors import Fault, Held, Misconfigured, Unavailable
from dsqlcdc.stores.dynamodb_items import HEAD, Item, Items
from dsqlcdc.stores.head import Head, read_head, write_head
from dsqlcdc.stores.hold import held

log = logging.getLogger("dsqlcdc.dynamodb")

NOTE = "note"
_SIGNS = 2


class Tenure:
    """One process's hold on one head, or its lack of one. `lock` is held by whoever reads and then writes the head.

    `beat`: seconds between looks. Methods raise Unavailable and Misconfigured as Items does.
    """

    def __init__(self, items: Items, pk: str, name: Name, *, beat: float, looks: int, clock: Callable[[], float]) -> None:
        self.pk, self.lock = pk, asyncio.Lock()
        self._items, self._name, self._beat, self._looks, self._clock = items, name, beat, looks, clock
        self._token = secrets.token_hex(16)
        self._head: Item | None = None
        self._certain = False
        self._answered = ""
        self._taking = False
        self._heart: asyncio.Task[None] | None = None
        self._lost: Held | None = None

    @property
    def held(self) -> bool:
        return self._heart is not None

    async def take(self) -> None:
        """Become the owner. Raises Held, naming who is."""
        if self._heart is not None or self._taking:
            raise held(self._name, "it runs in this process already")
        self._taking = True
        try:
            await self._succeed()
        finally:
            self._taking = False
        self._lost = None
        self._heart = asyncio.create_task(self._beats(), name=f"heartbeat {self.pk}")

    async def stand(self) -> Item | None:
        """The head that may be written over. To be called with the lock. Raises Held where it is another's."""
        if not (self._certain and self.held):
            self._head = await self._items.get(self.pk, HEAD)
            self._certain = True
        head = self._head
        if not self.held:
            if head is not None and head.token:
                raise held(self._name, self._owner(head))
            return head
        if self._lost is not None:
            raise self._lost
        if head is None:
            why = "somebody has removed it from the table"
            raise Misconfigured("The state of a running pipeline is gone", where=self.pk, why=why, run="dsqlcdc status CONFIG", code="E203")
        if head.token != self._token:
            self._lost = held(self._name, f"it was taken over by {self._owner(head)}")
            raise self._lost
        return head

    async def write(self, over: Item | None, head: Head, new: Sequence[Item] = ()) -> bool:
        """Write the head over what `stand` gave, and `new` items with it, all or nothing; False where that stands no more, or one of the
        items is there: stand again. To be called with the lock."""
        token = self._token if self.held else ""
        item = Item(self.pk, HEAD, token, over.version + 1 if over is not None else 1, write_head(head))
        return await self._write(item, over, new)

    async def leave(self) -> None:
        """Let go. What cannot be said now is found out by whoever comes next. Twice is no error."""
        heart = self._heart
        if heart is None:
            return
        heart.cancel()
        await asyncio.gather(heart, return_exceptions=True)
        try:
            async with asyncio.timeout(5.0), self.lock:
                head = await self.stand()
                assert head is not None
                await self._write(msgspec.structs.replace(head, token="", version=head.version + 1), head)
        except (Fault, TimeoutError) as error:
            log.info("%s: not let go (%s); the next runner waits for it", self.pk, error)
        finally:
            self._heart, self._certain = None, False

    async def _succeed(self) -> None:
        seen = await self._items.get(self.pk, HEAD)
        looks = signs = 0
        while True:
            if seen is not None and seen.token not in ("", self._token):
                self._token = secrets.token_hex(16)  # a token that may have been succeeded never comes back
            if seen is None or seen.token in ("", self._token) or looks >= self._looks:
                if await self._seize(seen):
                    return
                looks = 0
            else:
                if looks == 0:
                    self._answered = secrets.token_hex(8)
                    await self._items.put(Item(self.pk, NOTE, self._answered))
                await asyncio.sleep(self._beat)
                looks += 1
            found = await self._items.get(self.pk, HEAD)
            if found is not None and seen is not None and found.token and (found.token, found.version) != (seen.token, seen.version):
                looks, signs = 0, signs + 1
                if signs >= _SIGNS and found.token != self._token:
                    raise held(self._name, self._owner(found))
            seen = found

    async def _seize(self, seen: Item | None) -> bool:
        started = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds")
        owner = f"process {os.getpid()} on {socket.gethostname()}, since {started}"
        old = read_head(seen.body, self.pk) if seen is not None else Head()
        version = seen.version + 1 if seen is not None else 1
        taken = Item(self.pk, HEAD, self._token, version, write_head(msgspec.structs.replace(old, owner=owner)))
        if seen is not None and seen.token not in ("", self._token):
            log.warning("%s: %s has been silent for %d looks; it is succeeded", self.pk, self._owner(seen), self._looks)
        return await self._write(taken, seen)

    async def _write(self, item: Item, over: Item | None, new: Sequence[Item] = ()) -> bool:
        self._certain = False  # until the answer is here the write may or may not have happened
        if new:
            done = await self._items.together([(item, over), *((one, None) for one in new)])
        else:
            done = await (self._items.create(item) if over is None else self._items.replace(item, over))
        if not done:
            return False
        self._head, self._certain = item, True
        return True

    async def _beats(self) -> None:
        """Answer notes until ownership is lost. What cannot be asked just now is asked at the next beat: only being succeeded ends a run."""
        while True:
            await asyncio.sleep(self._beat)
            try:
                note = await self._items.get(self.pk, NOTE, consistent=False)
                if note is None or note.token == self._answered:
                    continue
                async with self.lock:
                    head = await self.stand()
                    assert head is not None
                    if await self._write(msgspec.structs.replace(head, version=head.version + 1), head):
                        self._answered = note.token
            except Held as error:
                log.error("%s", error)
                return
            except Unavailable as error:
                log.debug("%s: no heartbeat (%s)", self.pk, error)
            except Misconfigured as error:
                log.warning("%s: no heartbeat (%s)", self.pk, error)

    def _owner(self, head: Item) -> str:
        return read_head(head.body, self.pk).owner or "a process that did not say its name"

"""Parts of oversized rows in S3, shared by any number of processes that share nothing else.

    parts/{chunk}/{generation}-{index}-…     a piece; -main: the main record, under each chunk it names
    done/{chunk}/{sink}                      this sink is done with the row; the row's own chunk is marked last, and decides
    done/{chunk}/.closed-{generation}        parts of this generation may go: whoever still needs one stores it in the next
    done/{row}/.claim-{sink}                 the record that delivers the row
    judged/{sink}/{row or chunk}/{parts}     the sink's verdict (incomplete) on exactly these parts
    sinks/{sink}                             this sink adds parts here

Nobody locks, and no two clocks are compared. What holds it together is the order of requests:

- A part is stored, then looked for: of two that add the last parts of a row at one moment at least one sees all of them.
- The parts are listed before the done markers, and markers are stored before parts go: who misses parts that are gone sees why. A part
  that arrives after that all the same (a write of which the answer was lost, say) is known by the markers and removed, never judged.
- Parts go by generations. The generation is closed, then the sinks are listed again: a sink that was not there before the closing sees the
  closing after it has stored its part, and stores it anew, where nobody removes it.
- A claim belongs to a record, not to a process. Other records of the row are PARKED on the strength of it, since the claiming one is owed
  until the row is settled: if its process is killed, whoever reads the record again finds its own claim.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from dsqlcdc.core.ports import Parked, Part
from dsqlcdc.stores.pieces import MAIN, digest
from dsqlcdc.stores.s3_objects import Objects
from dsqlcdc.stores.s3_parts import Group, Stored, decode, encode, group, name_of, parse, refusal, segment, segments

log = logging.getLogger("dsqlcdc.fragments")

_KEEP = 8 * 86400.0  # DSQL delivers again for a week
_HANDFUL = 64 * 1024 * 1024  # bytes that one `overdue` brings into memory
_MAINS = 256
_DAY = 86400.0


class Look(msgspec.Struct, frozen=True):
    """What was there at one look, of one row or of a chunk without one. `marks`: names under `done/`. `generation`: where parts go now."""

    chunks: Sequence[str]
    stored: Mapping[str, Sequence[Stored]]
    mains: Mapping[str, Part]
    group: Group
    marks: frozenset[str] = frozenset()

    @property
    def generation(self) -> int:
        return max((int(mark.removeprefix(".closed-")) + 1 for mark in self.marks if mark.startswith(".closed-")), default=0)

    def every(self) -> list[Stored]:
        return [stored for chunk in self.stored.values() for stored in chunk]

    def holds(self, part: Part) -> bool:
        """Is this very part stored where nobody removes it before its sink is done?"""
        if part.index == MAIN:
            return all(any(s.index == MAIN and s.generation >= self.generation for s in self.stored[chunk]) for chunk in segments(part))
        crc = digest(part)
        return any((s.index, s.crc) == (part.index, crc) and s.generation >= self.generation for s in self.stored[segment(part.chunk_id)])


class S3Fragments:
    """A durable FragmentStore over `objects`, those of one pipeline, for all sinks that are named here or have ever been; with `claims` a
    SharedFragmentStore, for processes that run one sink side by side.

    `max_bytes`: what incomplete rows may take before the oldest become overdue. `keep`: seconds that done markers stay, by S3's clock.
    `every`: seconds between the listings of all that waits.

    Raises Unavailable (E120 to E122) when S3 cannot be asked or throttles, Misconfigured (E102 to E106 as AWS says; E202, E203), ValueError
    for a sink that is not named. A call that fails or is cancelled may have stored its part; given again, it finds it.
    """

    durable = True

    def __init__(
        self,
        objects: Objects,
        sinks: Collection[str],
        max_bytes: int = 10 * 1024**3,
        *,
        claims: bool = False,
        keep: float = _KEEP,
        every: float = 60.0,
    ) -> None:
        if not sinks or max_bytes < 1:
            raise ValueError("a fragment store needs the names of its sinks and room for at least one byte")
        self._objects, self._names, self._max_bytes = objects, frozenset(sinks), max_bytes
        self._claims, self._keep, self._every = claims, keep, every
        self._entering = asyncio.Lock()
        self._entered = False
        self._mains: dict[str, Part] = {}
        self._due: dict[str, float] = {}
        self._tidy_at = 0.0
        # What `overdue` has shown: by sink and chunk, the group and its parts then. `judged` speaks of no more than that.
        self._shown: dict[tuple[str, str], tuple[str, str]] = {}

    async def prepare(self) -> None:
        """Make this process's sinks known. Better found at the start than at the first piece: raises as every call does."""
        async with self._entering:
            if self._entered:
                return
            there = await self._sinks()
            for sink in sorted(self._names - there):
                await self._objects.put(f"sinks/{sink}", b"")
            for sink in sorted(there - self._names):
                log.info("pieces of oversized rows wait for the sink %s too, which is not in this config (see docs/reference.md)", sink)
            self._entered = True

    async def add(self, sink: str, part: Part) -> Parked:
        """Store a part and say what its row is now: four listings (six for a row with two images), one write (two for such a row's main
        record), at most one read of the main record; a claim is a write or a read more. A part that is there already costs half the
        listings and no write."""
        self._check(sink)
        await self.prepare()
        while True:
            look = await self._look(segments(part))
            why = refusal(part, look.mains, look.stored)
            if why:
                return Parked("refused", why=why)
            if sink in look.marks:
                return Parked("done", await self._row_of(look, part, sink))
            if look.holds(part):
                return await self._answer(sink, part, look)
            await self._store(part, look)

    async def _answer(self, sink: str, part: Part, look: Look) -> Parked:
        main = look.group.main
        if main is None:
            return Parked("waiting")
        if not look.group.complete or (self._claims and not await self._claim(sink, part, look)):
            return Parked("waiting", main.chunk_id)
        return Parked("complete", main.chunk_id)

    async def _store(self, part: Part, look: Look) -> None:
        body = await asyncio.to_thread(encode, part)
        for chunk in segments(part):
            await self._objects.put(name_of(chunk, look.generation, part), body, new=part.index == MAIN)
        if part.index != MAIN:
            for other in look.stored[segment(part.chunk_id)]:
                if other.index == part.index and other.crc != digest(part):
                    await self._objects.delete(other.name)

    async def _claim(self, sink: str, part: Part, look: Look) -> bool:
        """Is this the record that delivers the row? The first one to say so is."""
        name, mine = f"done/{look.group.name}/.claim-{sink}", f"{part.shard}\0{part.sequence}".encode()
        if f".claim-{sink}" not in look.marks and await self._objects.put(name, mine, new=True):
            return True
        return await self._objects.get(name) in (mine, None)

    async def row(self, row: str) -> Sequence[Part]:
        """All parts of a complete row: the main record first, then by chunk id and index. Empty where it is not (or no longer) complete."""
        found = (await self._parts(segment(row))).group
        if found.main is None or found.main.chunk_id != row or not found.complete:
            return []
        pieces = await self._read([found])
        return pieces if len(pieces) == found.count else []

    async def done(self, sink: str, rows: Sequence[str]) -> None:
        """This sink is done with these rows, durably: a listing and a marker each; the parts go with the last sink's."""
        self._check(sink)
        await self.prepare()
        for row in rows:
            look = await self._parts(segment(row))
            await self._mark(sink, row, look)
            await self._release(look)

    async def _mark(self, sink: str, row: str, look: Look) -> None:
        for chunk in sorted(look.chunks, key=lambda chunk: chunk == segment(row)):
            await self._objects.put(f"done/{chunk}/{sink}", row.encode("utf-8", "surrogatepass"))

    async def _release(self, look: Look) -> None:
        """Remove the parts of a row with which every sink is done, also those sinks that come while its generation is being closed."""
        stored, marks = look.every(), await self._marks(look.group.name)
        if not stored or not marks >= self._names or not marks >= await self._sinks():
            return
        newest = max(s.generation for s in stored)
        await self._close(look.chunks, newest)
        if not marks >= await self._sinks():
            return
        for chunk in look.chunks:
            for s in await self._stored(chunk):
                if s.generation <= newest:
                    await self._objects.delete(s.name)

    async def _close(self, chunks: Iterable[str], generation: int) -> None:
        """From here on, whoever still needs a part stores it in the next generation."""
        for chunk in chunks:
            await self._objects.put(f"done/{chunk}/.closed-{generation:04d}", b"")

    async def overdue(self, sink: str, before: float) -> Sequence[Part]:
        """As the port says, whole rows, oldest first, and about 64 MiB at most: ask again after `judged` until nothing comes. Looks once in
        `every` seconds; nothing is overdue in between. A verdict is never passed here: who suspends it does not ask."""
        self._check(sink)
        now = asyncio.get_running_loop().time()
        if now < self._due.get(sink, now):
            return []
        self._due[sink] = now + self._every
        groups = await self._groups()
        if now >= self._tidy_at:
            await self._tidy(groups)
            self._tidy_at = now + _DAY
        waiting = sorted((found for found in groups if not found.complete), key=lambda found: (found.newest, found.name))
        verdicts = {entry.name for entry in (await self._objects.list("judged/")).entries} if waiting else set[str]()
        await self._trim(waiting, verdicts)
        excess, shown, taken = sum(found.size for found in waiting) - self._max_bytes, list[Group](), 0
        for found in waiting:
            late = found.newest < before or excess > 0
            excess -= found.size
            if not late or f"judged/{sink}/{found.name}/{found.fingerprint}" in verdicts or await self._over(sink, found):
                continue
            if shown and taken + found.size > _HANDFUL:
                self._due[sink] = now
                break
            shown.append(found)
            taken += found.size
        self._shown.update({(sink, chunk): (found.name, found.fingerprint) for found in shown for chunk in found.chunks})
        return await self._read(shown)

    async def _over(self, sink: str, found: Group) -> bool:
        """Was a part stored after its row was done with, by one who had not seen the marker yet? It is no part of a row to come."""
        if sink not in await self._marks(found.name):
            return False
        await self._release(await self._parts(*found.chunks))
        return True

    async def judged(self, sink: str, chunk_ids: Sequence[str]) -> None:
        """This sink has passed its verdict on the rows of these chunk ids, as `overdue` showed them: a row that a part has joined since
        stays overdue."""
        self._check(sink)
        verdicts: set[tuple[str, str]] = set()
        for chunk in map(segment, chunk_ids):
            seen = self._shown.pop((sink, chunk), None)
            if seen is None:
                found = (await self._parts(chunk)).group
                if found.complete or not found.count:
                    continue
                seen = found.name, found.fingerprint
            verdicts.add(seen)
        for name, fingerprint in sorted(verdicts):
            await self._objects.put(f"judged/{sink}/{name}/{fingerprint}", b"")

    async def _trim(self, waiting: Sequence[Group], verdicts: Collection[str]) -> None:
        """Let go of rows on which every sink has passed its verdict: those beyond the bound, oldest first, and very old ones."""
        if not waiting or not verdicts:
            return

        async def judged_by_all(found: Group) -> bool:
            return all(f"judged/{sink}/{found.name}/{found.fingerprint}" in verdicts for sink in await self._sinks())

        excess, horizon = sum(found.size for found in waiting) - self._max_bytes, max(found.newest for found in waiting) - self._keep
        for found in waiting:
            if (excess > 0 or found.newest < horizon) and await judged_by_all(found):
                await self._close(found.chunks, found.generation)
                if await judged_by_all(found):
                    for name in found.names:
                        await self._objects.delete(name)
                    excess -= found.size

    async def _tidy(self, groups: Sequence[Group]) -> None:
        """Finish removals that were cut off; remove markers and verdicts that S3's clock calls older than `keep`, of chunks of which nothing
        is stored."""
        waiting = {chunk for found in groups for chunk in found.chunks}
        for found in groups:
            if await self._marks(found.name) >= self._names:
                await self._release(await self._parts(*found.chunks))
        for start, place in (("done/", 1), ("judged/", 2)):
            listing = await self._objects.list(start)
            newest: dict[str, float] = {}
            for entry in listing.entries:
                chunk = entry.name.split("/")[place]
                newest[chunk] = max(newest.get(chunk, 0.0), entry.modified)
            for entry in listing.entries:
                chunk = entry.name.split("/")[place]
                if newest[chunk] < listing.now - self._keep and chunk not in waiting:
                    await self._objects.delete(entry.name)

    async def unfinished(self, sink: str, age: float) -> Sequence[str]:
        """See SharedFragmentStore.unfinished; the clock is S3's. Two listings, and one for each complete row of that age."""
        self._check(sink)
        now = (await self._objects.list("sinks/")).now
        old = [found for found in await self._groups() if found.complete and found.written <= now - age]
        return [found.main.chunk_id for found in old if found.main is not None and sink not in await self._marks(found.name)]

    async def waiting(self) -> tuple[int, int]:
        """(parts, bytes) of incomplete rows."""
        groups = [found for found in await self._groups() if not found.complete]
        return sum(found.count for found in groups), sum(found.size for found in groups)

    async def close(self) -> None:
        await self._objects.close()

    def _check(self, sink: str) -> None:
        if sink not in self._names:
            raise ValueError(f"sink {sink!r} is not one of those that this store was opened for")

    async def _look(self, chunks: Sequence[str]) -> Look:
        """The parts, and after them the markers: not the other way round."""
        look = await self._parts(*chunks)
        return msgspec.structs.replace(look, marks=await self._marks(look.group.name))

    async def _parts(self, *chunks: str) -> Look:
        """What is stored under these chunks, and under all that their main record names."""
        stored: dict[str, Sequence[Stored]] = {}
        mains: dict[str, Part] = {}
        todo = list(chunks)
        while todo:
            chunk = todo.pop(0)
            stored[chunk] = await self._stored(chunk)
            main = await self._main(stored[chunk])
            if main is not None:
                mains[chunk] = main
                todo += [other for other in segments(main) if other not in stored and other not in todo]
        main = mains.get(chunks[0])
        name = segments(main)[0] if main is not None else chunks[0]
        every = [s for chunk in (segments(main) if main is not None else chunks[:1]) for s in stored[chunk]]
        return Look(list(stored), stored, mains, group(name, main, every))

    async def _stored(self, chunk: str) -> list[Stored]:
        entries = (await self._objects.list(f"parts/{chunk}/")).entries
        return [stored for stored in map(parse, entries) if stored is not None]

    async def _main(self, stored: Iterable[Stored]) -> Part | None:
        """The main record among these, read once: it never changes."""
        name = max((s.name for s in stored if s.index == MAIN), default="")
        if name and name not in self._mains:
            body = await self._objects.get(name)
            if body is None:
                return None
            while len(self._mains) >= _MAINS:
                del self._mains[next(iter(self._mains))]
            self._mains[name] = decode(body, name)
        return self._mains.get(name)

    async def _marks(self, chunk: str) -> frozenset[str]:
        start = f"done/{chunk}/"
        return frozenset(entry.name.removeprefix(start) for entry in (await self._objects.list(start)).entries)

    async def _sinks(self) -> frozenset[str]:
        return frozenset(entry.name.removeprefix("sinks/") for entry in (await self._objects.list("sinks/")).entries)

    async def _row_of(self, look: Look, part: Part, sink: str) -> str:
        if look.group.main is not None or part.index == MAIN:
            return (look.group.main or part).chunk_id
        return (await self._objects.get(f"done/{look.group.name}/{sink}") or b"").decode("utf-8", "surrogatepass")

    async def _groups(self) -> list[Group]:
        """Everything that is stored, by row, or by chunk where the row is unknown."""
        chunks: dict[str, list[Stored]] = {}
        for entry in (await self._objects.list("parts/")).entries:
            stored = parse(entry)
            if stored is not None:
                chunks.setdefault(stored.chunk, []).append(stored)
        found: dict[str, Group] = {}
        for main in [await self._main(stored) for stored in list(chunks.values())]:
            if main is not None and (own := segments(main))[0] not in found:
                found[own[0]] = group(own[0], main, [s for chunk in own for s in chunks.pop(chunk, ())])
        return [*found.values(), *(group(chunk, None, stored) for chunk, stored in chunks.items())]

    async def _read(self, groups: Iterable[Group]) -> list[Part]:
        """The parts of these rows as they were received; those that are gone meanwhile are left out."""
        parts: list[Part] = []
        for found in groups:
            parts += [found.main] if found.main is not None else []
            pieces: list[Part] = []
            for stored in found.pieces.values():
                body = await self._objects.get(stored.name)
                if body is not None:
                    pieces.append(await asyncio.to_thread(decode, body, stored.name))
            parts += sorted(pieces, key=lambda piece: (piece.chunk_id, piece.index))
        return parts

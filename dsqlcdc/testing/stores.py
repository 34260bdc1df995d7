"""The laws of the stores, for any implementation: each check raises AssertionError with the law that is broken.

    async def test_my_store(tmp_path):
        await check_checkpoint_store(lambda: MyCheckpoints(tmp_path / "state"))

`make` opens the same storage anew each time, empty at first. A store that lives in memory gives the same object again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import google_crc32c
import msgspec

from dsqlcdc.core.ports import (
    Checkpoint,
    CheckpointStore,
    Commit,
    DeadLetter,
    DeadLetterStore,
    FragmentStore,
    Gap,
    LetterBox,
    Memory,
    Name,
    Need,
    Parked,
    Part,
    ResettableStore,
)
from dsqlcdc.core.records import END, TRIM_HORIZON, Mark, Position
from dsqlcdc.errors import Held, Misconfigured

_crc32c: Callable[[bytes], int] = google_crc32c.value  # pyright: ignore[reportUnknownVariableType] (no stubs)

NAME = Name("pipe", "lake", "orders@1750000000")
_SEQUENCE = "49671246667567228643283430150187087032206582658"


def check(holds: object, law: str) -> None:
    """Raise AssertionError with the law unless it holds."""
    if not holds:
        raise AssertionError(law)


async def check_checkpoint_store(make: Callable[[], CheckpointStore]) -> None:
    """The contract of CheckpointStore: marks, memories, word, gaps, names, the runner's lock, reopening."""
    await _check_empty(make)
    await _check_commits(make)
    await _check_marks(make)
    await _check_memories(make)
    await _check_gaps(make)
    await _check_hold(make)


async def _check_empty(make: Callable[[], CheckpointStore]) -> None:
    store = make()
    check(await store.load(NAME) is None, "a name without a commit has no checkpoint")
    check(not await store.gaps(NAME.pipeline) and not await store.names(), "an empty store has no gaps and no names")
    await store.close()
    await store.close()


async def _loaded(store: CheckpointStore, name: Name) -> Checkpoint:
    checkpoint = await store.load(name)
    if checkpoint is None:
        raise AssertionError("a name with a commit has a checkpoint")
    return checkpoint


async def _check_commits(make: Callable[[], CheckpointStore]) -> None:
    store = make()
    first, other = Mark(Position("after", _SEQUENCE, 1763.25), 1763.5), Mark(TRIM_HORIZON)
    await store.commit(NAME, Commit({"shard-0": first, "shard-1": other}, word=b"\x00word\xff"))
    await store.commit(NAME, Commit({"shard-1": Mark(END, 1764.0)}))
    await store.close()
    store = make()
    found = await _loaded(store, NAME)
    check(dict(found.marks) == {"shard-0": first, "shard-1": Mark(END, 1764.0)}, "the last mark of every shard is kept, to the bit")
    check(found.word == b"\x00word\xff", "a commit without a word leaves the stored one")
    await store.commit(NAME, Commit({}, word=b"", forget=("shard-1", "never-seen")))
    found = await _loaded(store, NAME)
    check(dict(found.marks) == {"shard-0": first} and found.word == b"", "a forgotten shard goes; an empty word is a word")
    strangers = [msgspec.structs.replace(NAME, **{field: "other"}) for field in ("pipeline", "sink", "stream")]
    for stranger in strangers:
        check(await store.load(stranger) is None, "a checkpoint belongs to its pipeline, sink and stream")
    await store.commit(strangers[2], Commit({"shard-0": other}))
    check(dict((await _loaded(store, NAME)).marks) == {"shard-0": first}, "a stream created anew starts anew and leaves the old marks")
    check(set(await store.names()) == {NAME, strangers[2]}, "names are those that have a commit")
    await store.close()


async def _check_marks(make: Callable[[], CheckpointStore]) -> None:
    store, name = make(), Name("marks", "lake", "s")
    order = [
        TRIM_HORIZON,
        Position("time", arrived=5.0),
        Position("time", arrived=6.0),
        Position("after", "9", 4.0),
        Position("after", "10", 4.0),
        END,
    ]
    for low, position in enumerate(order):
        shard = f"shard-{low}"
        await store.commit(name, Commit({shard: Mark(position, 7.0)}, word=b"kept"))
        await store.commit(name, Commit({shard: Mark(position, 8.0)}))
        for earlier in order[:low]:
            memory = Memory("k", 1.0, b"x")
            try:
                await store.commit(
                    name, Commit({"fresh": Mark(END), shard: Mark(earlier, 9.0)}, memory=memory, word=b"lost", forget=("shard-0",))
                )
            except Misconfigured:
                pass
            else:
                raise AssertionError(f"a mark never moves back: {position} → {earlier}")
        found = await _loaded(store, name)
        check(found.marks[shard] == Mark(position, 8.0), "a refused commit leaves the mark")
        check("fresh" not in found.marks and "shard-0" in found.marks, "a refused commit stores nothing")
        check(found.word == b"kept" and not found.memories, "a refused commit leaves word and memories")
        await store.commit(name, Commit({shard: Mark(position, 2.0)}))
        check((await _loaded(store, name)).marks[shard].arrived == 8.0, "the time up to which nothing is owed never falls")
    for low, position in enumerate(order):
        for high in order[low:]:
            await store.commit(name, Commit({"up": Mark(position)}))
            await store.commit(name, Commit({"up": Mark(high)}))
            check((await _loaded(store, name)).marks["up"].position == high, f"a mark moves on: {position} → {high}")
            await store.commit(name, Commit({}, forget=("up",)))
    await store.close()


async def _check_memories(make: Callable[[], CheckpointStore]) -> None:
    store, name = make(), Name("memories", "lake", "s")
    memories = [Memory("ids", float(at), bytes([at]) * 16) for at in (3, 1, 2)]
    for memory in memories:
        await store.commit(
            name, Commit({"shard": Mark(Position("after", str(int(memory.newest) + 10)))} if memory.newest == 3 else {}, memory)
        )
    await store.close()
    store = make()
    found = (await _loaded(store, name)).memories
    check(list(found) == (memories if store.remembers else []), "memories come back oldest commit first, where the store remembers")
    await store.commit(name, Commit({}, horizon=2.0))
    found = (await _loaded(store, name)).memories
    check(list(found) == ([memories[0], memories[2]] if store.remembers else []), "a memory goes when its newest is before the horizon")
    await store.commit(name, Commit({}, Memory("ids", 9.0, b""), horizon=math.inf))
    check(not (await _loaded(store, name)).memories, "an infinite horizon drops every memory")
    await store.close()


async def _check_gaps_end(store: CheckpointStore) -> None:
    gap = Gap("open", "ends", "", "s", "recreated", "", after="old", from_time=1.0)
    await store.record_gap(gap)
    ended = await store.end_gap("ends", "open", until="new", to_time=9.0)
    check(ended == msgspec.structs.replace(gap, until="new", to_time=9.0), "a gap whose end was not known is given one")
    check(await store.end_gap("ends", "open", until="newer", to_time=99.0) == ended, "a gap that has an end keeps it")
    acked = await store.ack_gap("ends", "open", "seen", 10.0)
    check(acked.to_time == 9.0 and list(await store.gaps("ends")) == [acked], "an end outlives the acknowledgement")
    try:
        await store.end_gap("ends", "nobody", until="x", to_time=1.0)
    except KeyError:
        return
    raise AssertionError("an unknown gap cannot be ended")


async def _check_gaps(make: Callable[[], CheckpointStore]) -> None:
    store = make()
    gap = Gap(
        "g1", "pipe", "lake", "s", "trimmed", "shard-0", after="1", until="9", from_time=1.5, to_time=2.5, detail="dé\u2028", found_at=3.0
    )
    check(await store.record_gap(gap) == gap, "a new gap is given back as it is")
    other = msgspec.structs.replace(gap, id="g0", found_at=4.0)
    await store.record_gap(other)
    await store.record_gap(msgspec.structs.replace(gap, pipeline="elsewhere"))
    check(await store.record_gap(msgspec.structs.replace(gap, found_at=99.0)) == gap, "a gap found again is the one that is stored")
    await store.close()
    store = make()
    check(list(await store.gaps("pipe")) == [gap, other], "gaps of a pipeline come back in the order found")
    acked = await store.ack_gap("pipe", "g1", "checked by hand", 5.0)
    check(acked == msgspec.structs.replace(gap, acked="checked by hand", acked_at=5.0), "an acknowledged gap carries reason and time")
    check(await store.ack_gap("pipe", "g1", "again", 6.0) == acked, "the first reason stays")
    check(await store.record_gap(gap) == acked, "an acknowledged gap stays acknowledged when it is found again")
    check((await store.gaps("elsewhere"))[0].acked == "", "a gap belongs to its pipeline")
    await _check_gaps_end(store)
    for pipeline, id in (("pipe", "unknown"), ("nobody", "g1")):
        try:
            await store.ack_gap(pipeline, id, "reason", 1.0)
        except KeyError:
            continue
        raise AssertionError("an unknown gap cannot be acknowledged")
    await store.close()


async def _check_hold(make: Callable[[], CheckpointStore]) -> None:
    runner, second, name = make(), make(), Name("held", "lake", "s")
    await runner.hold(name)
    for rival in (name, msgspec.structs.replace(name, stream="recreated")):
        for store in (runner, second):
            try:
                await store.hold(rival)
            except Held:
                continue
            raise AssertionError("one runner for a pipeline and sink, whatever the stream")
    await runner.commit(name, Commit({"shard": Mark(END)}))
    check(await second.load(name) is not None, "others read beside a runner")
    await second.record_gap(Gap("g", "held", "lake", "s", "reset", "shard"))
    check((await second.ack_gap("held", "g", "seen", 1.0)).acked == "seen", "others acknowledge gaps beside a runner")
    await second.hold(msgspec.structs.replace(name, sink="search"))
    await runner.close()
    await second.close()
    second = make()
    await second.hold(name)
    await second.close()


async def check_resettable_store(make: Callable[[], ResettableStore]) -> None:
    """The contract of ResettableStore: marks move wherever they are told to, whole, and only under the runner's lock."""
    store, name = make(), Name("reset", "lake", "s")
    old = {"a": Mark(Position("after", "9", 4.0), 5.0), "b": Mark(END, 6.0), "c": Mark(TRIM_HORIZON)}
    await store.commit(name, Commit(old, Memory("ids", 5.0, b"i"), word=b"word"))
    new = {"a": Mark(TRIM_HORIZON), "b": Mark(Position("time", arrived=2.0), 2.0), "new": Mark(Position("time", arrived=9.0), 9.0)}
    gap = Gap("reset-gap", "reset", "lake", "s", "reset", "new")
    try:
        await store.reset(name, new, gaps=(gap,))
    except Misconfigured:
        pass
    else:
        raise AssertionError("who does not hold the lock resets nothing")
    check(dict((await _loaded(store, name)).marks) == old and not await store.gaps("reset"), "a refused reset changes nothing")
    await store.hold(name)
    try:
        await store.reset(msgspec.structs.replace(name, stream="other"), new, gaps=(gap,))
    except KeyError:
        pass
    else:
        raise AssertionError("what has no checkpoint cannot be reset")
    check(not await store.gaps("reset") and len(await store.names()) == 1, "a reset that fails records nothing")
    await store.reset(name, new, gaps=(gap,))
    await store.close()
    store = make()
    found = await _loaded(store, name)
    check(dict(found.marks) == {**old, **new}, "a reset sets the marks it names, backwards too, and leaves the others")
    check(found.word == b"", "a reset drops the sink's word: it says what need not be known any more")
    check(bool(found.memories) == store.remembers, "a reset leaves the memories")
    check(list(await store.gaps("reset")) == [gap], "the gaps of a reset are recorded with it")
    await store.hold(name)
    await store.reset(name, {}, forget=True)
    check(not (await _loaded(store, name)).memories, "forgetting drops the memories")
    await store.commit(name, Commit({"a": Mark(Position("after", "3", 1.0), 1.0)}))
    check((await _loaded(store, name)).marks["a"].position.sequence == "3", "a run goes on from where it was reset to")
    await store.close()


async def check_letter_box(make: Callable[[], LetterBox]) -> None:
    """The contract of LetterBox: attempts are counted, what was dealt with is out of the list, twice is no error."""
    store = make()
    letters = [
        DeadLetter(pipeline="p", sink=sink, stream="s@1", shard="shard-0", sequence="5", arrived=1e9, code="bad", detail="d", raw=b"\xff")
        for sink in ("", "lake", "hook")
    ]
    for letter in letters:
        await store.put(letter)
    names = {letter.sink: name async for name, letter in store.letters()}
    await store.tried(names["lake"], "refused", "once more", 2e9)
    await store.tried(names["lake"], "refused", "and again", 3e9)
    store = make()
    found = await store.letter(names["lake"])
    check((found.attempts, found.at, found.code) == (3, 3e9, "bad"), "failed attempts are counted; the letter keeps its own reason")
    check([each["detail"] for each in found.tries] == ["once more", "and again"], "every attempt is kept")
    check(found.raw == b"\xff", "the record's bytes stay")
    check(await store.close_letter(names[""], "replayed", "delivered", "", 4e9, keep=True), "a letter is stored by its new name")
    check((await store.letter(names[""])).raw == b"\xff", "and kept by its old one, where that was asked for")
    check(await store.close_letter(names[""], "replayed", "delivered", "", 4e9), "a letter is moved")
    check(await store.close_letter(names["hook"], "discarded", "discarded", "seen", 4e9), "a letter is moved")
    for folder, sink in (("replayed", ""), ("discarded", "hook")):
        check(not await store.close_letter(names[sink], "replayed", "x", "", 5e9), "what is gone is not moved twice")
        check((await store.letter(f"{folder}/{names[sink]}")).raw == b"\xff", "what was dealt with stays readable")
    await store.tried(names[""], "x", "y", 5e9)
    check([letter.sink async for _, letter in store.letters()] == ["lake"], "only what is not dealt with is listed")
    check(await store.put(letters[0]) is True, "the same record may die again")
    check(await store.close_letter(names[""], "replayed", "duplicate", "", 6e9), "and be dealt with again")
    await store.close()


async def check_dead_letter_store(make: Callable[[], DeadLetterStore]) -> None:
    """The contract of DeadLetterStore: exact bytes, one letter a record and code, the sink's name only where a sink refused it."""
    store = make()
    letter = DeadLetter(
        pipeline="pipe",
        sink="",
        stream="orders@1",
        shard="shardId-000000000000",
        sequence=_SEQUENCE,
        arrived=1_763_673_874.123456,
        code="unreadable",
        detail="invalid UTF-8",
        raw=bytes(range(256)),
        at=1_763_673_875.5,
    )
    event = {
        "cluster": "c",
        "schema": "public",
        "table": "orders",
        "key": {"id": 2**60},
        "version": 2**60 + 1,
        "transaction": "t",
        "op": "c",
    }
    late = msgspec.structs.replace(
        letter, arrived=1_763_760_275.0, sequence="7", event=event, images={"after": b"{}\x00"}, id="ab", attempts=3
    )
    refused = msgspec.structs.replace(letter, sink="lake", code="no_key")
    odd = msgspec.structs.replace(letter, sink="a/..\ud800%", shard="../../x", sequence="1-2/", code="é" * 400, raw=b"", arrived=0.0)
    every = [late, letter, refused, odd, msgspec.structs.replace(letter, code="checksum"), msgspec.structs.replace(refused, sink="hook")]
    for one in every:
        check(await store.put(one) is True, "a new letter is stored")
    await store.close()
    store = make()
    for one in every:
        again = msgspec.structs.replace(one, detail="another reason", attempts=9, raw=b"other")
        check(await store.put(again) is False, "a letter of this name is stored already, and stays as it is")
    other_sink = msgspec.structs.replace(letter, pipeline="pipe")
    check(await store.put(other_sink) is False, "a record that is bad before routing is one letter for all sinks")
    found = [entry async for entry in store.letters()]
    check(len(found) == len(every) == len({name for name, _ in found}), "every letter once, each under its own name")
    for one in every:
        check(one in [stored for _, stored in found], f"a letter comes back as it was put: {one.code[:20]}")
    days = [stored.arrived // 86400 for _, stored in found]
    check(days == sorted(days), "the oldest arrival day comes first")
    await store.close()


def cut(row: str, images: dict[str, list[bytes]], *, arrived: float = 1000.0) -> list[Part]:
    """A row's parts, the main record first: `images` by name with the texts of their pieces. Chunk ids are `{row}` and `{row}.{image}`."""
    needs: dict[str, Need] = {}
    parts: list[Part] = []
    for image, texts in images.items():
        chunk_id = f"{row}.{image}" if needs else row
        needs[image] = Need(chunk_id, len(texts), _crc32c(b"".join(texts)))
        for index, text in enumerate(texts):
            raw = msgspec.json.encode({"type": "fragment", "chunk_id": chunk_id, "index": index, "data": text.decode()})
            parts.append(Part(chunk_id, index, raw, text, f"shard-{index % 3}", str(len(parts) + 1), arrived))
    main = Part(row, -1, msgspec.json.encode({"type": "chunked", "row": row}), b"", "shard-0", "100", arrived, needs)
    return [main, *parts]


async def check_fragment_store(make: Callable[[Sequence[str]], FragmentStore]) -> None:
    """The contract of FragmentStore. `make` is given the sinks; where the store is not durable it begins empty each time."""
    await _check_row(make)
    await _check_refusals(make)
    await _check_verdicts(make)


async def _check_row(make: Callable[[Sequence[str]], FragmentStore]) -> None:
    store = make(["a", "b"])
    parts = cut("row", {"after": [b'{"a":"\n', "é".encode(), b'"}'], "before": [b"{", b"}"]})
    main, *rest = parts
    order = [rest[4], rest[1], main, rest[0], rest[3], rest[2]]
    for count, part in enumerate(order[:-1]):
        answer = await store.add("a", part)
        check(answer.state == "waiting" and answer.row == ("row" if count >= 2 else ""), "a row waits for all parts of all its images")
        check(await store.add("a", part) == answer, "the same part again replaces itself")
        check((await store.waiting()) == (count + 1, sum(len(p.raw) for p in order[: count + 1])), "what waits is counted once")
    if store.durable:
        await store.close()
        store = make(["a", "b"])
    check(not await store.row("row"), "a row that is not complete is not given out")
    check((await store.add("a", order[-1])).state == "complete", "the last part completes the row")
    check((await store.waiting()) == (0, 0), "a complete row waits for nothing")
    whole = [main, *sorted(rest, key=lambda part: (part.chunk_id, part.index))]
    check(list(await store.row("row")) == whole, "a row is its main record, then its pieces in order, each as received")
    check((await store.add("b", rest[2])).state == "complete", "all sinks share the parts")
    await store.done("a", ["row"])
    check((await store.add("a", rest[0])).state == "done", "a part of a row that this sink is done with is known")
    check(list(await store.row("row")) == whole, "parts stay until every sink is done")
    await store.done("b", ["row"])
    await store.done("b", ["row"])
    if store.durable:
        await store.close()
        store = make(["a", "b"])
    check(not await store.row("row"), "parts go when every sink is done")
    for sink in ("a", "b"):
        for part in parts:
            check(await store.add(sink, part) == Parked("done", "row"), "a part that comes late is done, not an orphan")
    check((await store.waiting()) == (0, 0) and not await store.overdue("a", math.inf), "a part of a done row is not stored again")
    await store.close()


async def _check_refusals(make: Callable[[Sequence[str]], FragmentStore]) -> None:
    store = make(["a"])
    main, piece, last = cut("bad", {"after": [b"{", b"}"]})
    await store.add("a", main)
    need = main.needs["after"]
    contradictions = [
        msgspec.structs.replace(piece, index=2),
        msgspec.structs.replace(piece, index=-2),
        msgspec.structs.replace(main, needs={"after": msgspec.structs.replace(need, total=3)}),
        msgspec.structs.replace(main, needs={"after": msgspec.structs.replace(need, crc32c=need.crc32c ^ 1)}),
        msgspec.structs.replace(main, needs={"after": need, "before": Need("more", 1, 0)}),
        msgspec.structs.replace(main, chunk_id="elsewhere", needs={"after": need}),
        msgspec.structs.replace(main, chunk_id="elsewhere", needs={"after": Need("elsewhere", 1, 0), "before": need}),
        msgspec.structs.replace(main, chunk_id="none", needs={"after": Need("none", 0, 0)}),
    ]
    for part in contradictions:
        answer = await store.add("a", part)
        check(answer.state == "refused" and answer.why, f"a part that contradicts what is stored is refused: {part.index} {part.needs}")
    await store.add("a", piece)
    check((await store.add("a", last)).state == "complete", "what was refused leaves nothing behind")
    stray = msgspec.structs.replace(piece, chunk_id="short", index=5)
    await store.add("a", stray)
    answer = await store.add("a", cut("short", {"after": [b"{", b"}"]})[0])
    check(answer.state == "refused", "a main record that leaves out a stored piece is refused")
    check(list(await store.overdue("a", math.inf)) == [stray], "… and the piece is still there to be judged")
    await store.close()


async def _check_verdicts(make: Callable[[Sequence[str]], FragmentStore]) -> None:
    store = make(["c", "d"])
    main, *rest = cut("late", {"after": [b"{", b" ", b"}"]}, arrived=10.0)
    orphan = cut("orphan", {"after": [b"{"]}, arrived=20.0)[1]
    await store.add("c", main)
    await store.add("c", msgspec.structs.replace(rest[0], arrived=15.0))
    await store.add("d", orphan)
    check(not [p for p in await store.overdue("c", 15.0) if p.chunk_id == "late"], "a row is as old as its newest part")
    early = [part for part in await store.overdue("c", 15.5) if part.chunk_id == "late"]
    check([part.index for part in early] == [-1, 0], "all parts of an overdue row are shown")
    await store.judged("c", ["late"])
    check(
        [p.chunk_id for p in await store.overdue("c", 99.0) if p.chunk_id in ("late", "orphan")] == ["orphan"], "a verdict is passed once"
    )
    check(len([p for p in await store.overdue("d", 99.0) if p.chunk_id in ("late", "orphan")]) == 3, "each sink passes its own verdict")
    await store.add("c", rest[1])
    shown = [part.index for part in await store.overdue("c", 99.0) if part.chunk_id == "late"]
    check(shown == [-1, 0, 1], "a part that joins a judged row has not been judged")
    await store.add("d", rest[1])
    await store.judged("c", ["late", "orphan", "never-seen"])
    await store.judged("d", ["late", "orphan"])
    check((await store.add("c", rest[2])).state == "complete", "a part that comes after the verdict still completes the row")
    check(len(await store.row("late")) == 4, "… with all that was judged")
    for sink in ("c", "d"):
        await store.done(sink, ["late"])
    await store.close()

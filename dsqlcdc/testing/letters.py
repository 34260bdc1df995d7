"""The laws of dead-letter stores, for any implementation: each check raises AssertionError with the law that is broken.

`make` opens the same storage anew each time, empty at first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from dsqlcdc.core.ports import DeadLetter, DeadLetterStore, LetterBox
from dsqlcdc.testing.stores import SEQUENCE, check


async def check_letter_box(make: Callable[[], LetterBox]) -> None:
    """The contract of LetterBox: attempts are counted, what was dealt with is out of the list, twice is no error, several at once neither."""
    await _check_closing(make)
    await _check_together(make)


async def _check_together(make: Callable[[], LetterBox]) -> None:
    stores = [make() for _ in range(6)]
    letter = DeadLetter(pipeline="p", sink="x", stream="s@1", shard="s", sequence="7", arrived=2e9, code="bad", detail="d", raw=b"r")
    await stores[0].put(letter)
    name = next(iter([name async for name, one in stores[0].letters() if one.sequence == "7"]))
    await asyncio.gather(*(store.tried(name, "refused", f"of {n}", float(n)) for n, store in enumerate(stores)))
    found = await stores[0].letter(name)
    check(sorted(each["detail"] for each in found.tries) == [f"of {n}" for n in range(6)], "of attempts at once none is lost")
    check(found.attempts == 7, "of attempts at once all are counted")
    await stores[0].tried(name, "refused", "of 0", 0.0)
    check((await stores[0].letter(name)).attempts == 7, "the same attempt, told again, is one")
    await stores[0].close_letter(name, "replayed", "delivered", "", 8e9, keep=True)
    await stores[1].tried(name, "refused", "late", 9e9)
    await asyncio.gather(
        *(store.close_letter(name, "replayed", "delivered", "", 9e9) for store in stores[:3]),
        *(store.tried(name, "refused", f"at last {n}", float(100 + n)) for n, store in enumerate(stores[3:])),
    )
    check(name not in [one async for one, _ in stores[0].letters()], "what was dealt with does not come back by an attempt")
    tries = [each["detail"] for each in (await stores[0].letter(f"replayed/{name}")).tries]
    check({"late", "of 0", "of 5"} <= set(tries), "an attempt between the storing and the removing is kept")
    for store in stores:
        await store.close()


async def _check_closing(make: Callable[[], LetterBox]) -> None:
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
        sequence=SEQUENCE,
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

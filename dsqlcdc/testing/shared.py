"""The contract of fragment stores that several processes use for one sink at once, as checks to be run over any implementation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from dsqlcdc.core.ports import SharedFragmentStore
from dsqlcdc.testing.stores import check, cut


async def check_shared_fragment_store(make: Callable[[Sequence[str]], SharedFragmentStore]) -> None:
    """What SharedFragmentStore adds to the contract of FragmentStore. `make` is given the sinks and makes another process's store each time,
    over a place that no other sinks have used."""
    main, one, two = cut("shared", {"after": [b"{", b"}"]})
    here, there = make(["x", "y"]), make(["x", "y"])
    check((await here.add("x", main)).state == "waiting", "a row waits for all its parts")
    check((await there.add("x", one)).state == "waiting", "… whoever adds them")
    check((await here.add("x", two)).state == "complete", "the record that completes a row delivers it")
    again = msgspec.structs.replace(one, shard="another", sequence="77")
    for part in (main, one, again):
        check((await there.add("x", part)).state == "waiting", "no other record of the row does")
    check((await there.add("x", two)).state == "complete", "the same record does in another process: the first may have been killed")
    check((await there.add("y", one)).state == "complete", "each sink has a record of its own to deliver the row")
    check(len(await there.row("shared")) == 3, "whoever delivers a row has all of it")
    check(await there.unfinished("x", 3600.0) == [], "a row that was stored just now is not given up")
    check("shared" in await there.unfinished("x", 0.0), "a complete row that nobody finishes is found")
    await there.done("x", ["shared"])
    check("shared" not in await here.unfinished("x", 0.0), "a row that is done is finished")
    check("shared" in await here.unfinished("y", 0.0), "… for that sink")
    for part in (main, one, two, again):
        check((await here.add("x", part)).state == "done", "a record that comes late is known in every process")
    await here.done("y", ["shared"])
    check(not await there.row("shared"), "parts go when every sink is done")
    check((await there.add("y", again)).state == "done", "… and are known all the same")
    await here.close()
    await there.close()

"""An event that a receiver of batches names as failed for ever, and never says why: it goes alone at last, and has a status then."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from dsqlcdc.contract import Change, Setback, Verdict
from dsqlcdc.errors import Unavailable
from dsqlcdc.testing import virtual
from dsqlcdc_webhook.answers import Answer
from dsqlcdc_webhook.named import _REMEMBERED, NAMED_FOR, NAMED_TIMES, Named

from .receiver import Script, change, webhook

BAD = change(1).id.hex()


class Receiver:
    """Names one event as failed in each batch. `alone` answers a single event; `until` is when it takes it after all (loop time)."""

    def __init__(self, alone: Answer, until: float = float("inf"), named: Any = BAD) -> None:
        self.alone, self.until, self.named = alone, until, named
        self.batches: list[tuple[float, list[str]]] = []
        self.singles: list[tuple[float, str, Mapping[str, str]]] = []

    async def __call__(self, headers: Mapping[str, str], event: Any) -> Answer:
        now = asyncio.get_running_loop().time()
        if not isinstance(event, list):
            self.singles.append((now, event["id"], headers))
            return self.alone
        ids = [one["id"] for one in event]
        self.batches.append((now, ids))
        return Answer(200, None, msgspec.json.encode({"failures": [self.named] if BAD in ids and now < self.until else []}))


async def settled(
    receiver: Receiver, changes: Sequence[Change], *, within: float = 3600.0, every: float = 30.0
) -> dict[int, Setback | None]:
    """Written as the pipeline does, what is to be tried again after a while; what became of each at last."""
    found: dict[int, Setback | None] = {}
    async with webhook(post=Script(receiver), batch={}) as sink:
        rest = list(range(len(changes)))
        end = asyncio.get_running_loop().time() + within
        while rest and asyncio.get_running_loop().time() < end:
            try:
                said = {rest[setback.index]: setback for setback in await sink.write([changes[index] for index in rest])}
            except Unavailable as error:
                await asyncio.sleep(error.after or every)
                continue
            again = [index for index in rest if index in said and said[index].verdict is Verdict.RETRY]
            found |= {index: said.get(index) for index in rest if index not in again}
            rest = again
            await asyncio.sleep(every if rest else 0)
        assert not sink._requests._named._named or rest, "what is settled is forgotten"
    return found


MANY = [change(n) for n in range(1, 6)]


@pytest.mark.parametrize(
    ("alone", "verdict", "code"),
    [
        (Answer(204), None, ""),
        (Answer(422, None, b"no such order"), Verdict.DEAD, "refused"),
        (Answer(415), Verdict.DEAD, "refused"),
        (Answer(409), Verdict.DUPLICATE, ""),
        (Answer(200, None, msgspec.json.encode({"failures": [{"id": BAD, "status": 400}]})), Verdict.DEAD, "refused"),
        (Answer(200, None, msgspec.json.encode({"failures": [BAD]})), Verdict.DEAD, "refused"),
    ],
)
def test_after_ten_minutes_it_is_sent_alone_and_goes_by_that_answer(alone: Answer, verdict: Verdict | None, code: str) -> None:
    receiver = Receiver(alone)
    found = virtual.run(settled(receiver, MANY))
    assert {index: said for index, said in found.items() if index} == dict.fromkeys((1, 2, 3, 4))
    said = found[0]
    assert (said.verdict, said.code) == (verdict, code) if said is not None else verdict is None
    ((moment, id, headers),) = receiver.singles
    assert id == headers["webhook-id"] == BAD
    assert headers["Content-Type"].startswith("application/cloudevents+json")
    assert moment >= NAMED_FOR
    assert len(receiver.batches) >= NAMED_TIMES


def test_an_outage_behind_the_receiver_that_is_shorter_costs_no_single_delivery_and_no_letter() -> None:
    for until in (1.0, 300.0, NAMED_FOR - 60):
        receiver = Receiver(Answer(422), until=until)
        assert virtual.run(settled(receiver, MANY)) == dict.fromkeys(range(5))
        assert receiver.singles == []


def test_it_needs_several_times_and_not_only_time() -> None:
    receiver = Receiver(Answer(204))
    assert virtual.run(settled(receiver, MANY, every=400.0)) == dict.fromkeys(range(5))
    assert len([1 for _, ids in receiver.batches if BAD in ids]) == NAMED_TIMES


def test_an_event_that_is_named_with_a_status_to_come_again_is_tried_again_for_ever() -> None:
    """503 says what it means: it is the failure table's, and backpressure."""
    receiver = Receiver(Answer(422), named={"id": BAD, "status": 503})
    assert virtual.run(settled(receiver, MANY, within=20_000)) == dict.fromkeys(range(1, 5))
    assert receiver.singles == []


def test_a_receiver_that_is_away_for_it_alone_too_is_backpressure() -> None:
    receiver = Receiver(Answer(503))
    assert virtual.run(settled(receiver, MANY, within=20_000)) == dict.fromkeys(range(1, 5))
    assert len(receiver.singles) > 5


def test_others_go_in_batches_beside_it() -> None:
    """What waits to go alone takes nobody's place in a batch."""

    async def run() -> None:
        receiver = Receiver(Answer(503))
        async with webhook(post=Script(receiver), batch={"max_items": 3}) as sink:
            bad, version = change(1), 10
            while asyncio.get_running_loop().time() < 2 * NAMED_FOR:
                version += 1
                try:
                    said = list(await sink.write([bad, *(change(n, version) for n in range(2, 9))]))
                except Unavailable as error:
                    await asyncio.sleep(error.after or 30)
                    continue
                assert {setback.index for setback in said if setback.verdict is not Verdict.RETRY} == set()
                await asyncio.sleep(30)
        assert receiver.singles
        begun = receiver.singles[0][0]
        assert all(BAD not in ids for moment, ids in receiver.batches if moment > begun)
        assert any(len(ids) == 3 for moment, ids in receiver.batches if moment > begun)

    virtual.run(run())


def test_what_is_remembered_is_bounded() -> None:
    async def run() -> None:
        named = Named()
        for n in range(_REMEMBERED + 10):
            named.again(n.to_bytes(4))
        assert len(named._named) == _REMEMBERED

    virtual.run(run())

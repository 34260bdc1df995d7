"""Whole lives of the pipeline in virtual time: killed, stopped, cancelled and resumed over disorder, repeats, pieces and resharding."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import pytest

from dsqlcdc.core.ledger import Ledger
from dsqlcdc.core.ports import Commit, Name
from dsqlcdc.core.records import Mark, Position
from dsqlcdc.stores.fragments import MemoryFragments

from .lives import SCENARIOS, Broken, Parts, Scenario, play
from .mortal import DurableFragments, RememberingCheckpoints

WORLDS = 30


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_no_life_loses_or_repeats_a_change(scenario: Scenario) -> None:
    lives = sum(play(scenario, seed) for seed in range(WORLDS))
    assert lives > 2 * WORLDS


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_no_life_of_very_many_loses_or_repeats_a_change(scenario: Scenario) -> None:
    for seed in range(10_000, 15_000):
        play(scenario, seed)


# Controls: each breaks one rule, and the same lives must notice.


class _Forgetful(RememberingCheckpoints):
    """Stores no ids and asks for no warm-up."""

    async def commit(self, name: Name, commit: Commit) -> None:
        await super().commit(name, Commit(commit.marks, None, commit.horizon, commit.word, commit.forget))


class _Reckless(Ledger):
    """The checkpoint is the highest record read."""

    def frontier(self) -> dict[str, Mark]:
        return {
            p.shard: Mark(Position("after", p.sequence, 0.0), mark.arrived) if p.sequence and mark.position.kind != "end" else mark
            for mark, p in zip(super().frontier().values(), self.progress(), strict=True)
        }


class _Unmarked(DurableFragments):
    """Done markers are dropped."""

    async def done(self, sink: str, rows: Sequence[str]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            for row in rows:
                for table, column in (("part", "grp"), ("chunk", "grp"), ("holder", "grp"), ("grp", "name")):
                    connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (row,))

        await self._database.write(work)


class _Parking(MemoryFragments):
    """Says that it is durable, and dies with the process."""

    durable = True


CONTROLS: dict[str, tuple[str, Parts]] = {
    "no ids are stored and nothing is read again": ("once-unique-remembered-durable-word", Parts(checkpoints=lambda _: _Forgetful())),
    "no versions are stored and nothing is read again": ("newest-latest-remembered-durable", Parts(checkpoints=lambda _: _Forgetful())),
    "the checkpoint is the highest record read": ("least-unique-remembered-durable", Parts(ledger=_Reckless)),
    "done markers are dropped": ("least-unique-remembered-durable", Parts(fragments=lambda _: _Unmarked(["s"]))),
    "parts are parked where they do not last": (
        "least-unique-remembered-durable",
        Parts(fragments=lambda _: _Parking(["s"]), survives=lambda _: False),
    ),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_the_lives_notice_a_broken_rule(control: str) -> None:
    name, parts = CONTROLS[control]
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == name)

    def lives() -> None:
        for seed in range(300):
            play(scenario, seed, parts)

    with pytest.raises(Broken):
        lives()

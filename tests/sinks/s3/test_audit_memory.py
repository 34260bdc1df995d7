"""Memory of a verification does not grow with the lake: by what Python has allocated, of a lake and one five times as large."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest

from dsqlcdc_s3.audit import spill
from dsqlcdc_s3.audit.content import Content
from dsqlcdc_s3.audit.findings import Asked
from dsqlcdc_s3.audit.inventory import Inventory
from dsqlcdc_s3.audit.verify import Verification

from .auditing import OWNER, FakeLake
from .lake import Bucket, FakeObjects, change, make_sink, resume

ROWS = 8


async def lake(batches: int, format: str) -> Bucket:
    bucket = Bucket()
    async with make_sink(FakeObjects(bucket), {"format": format, "digest": {}}, ticking=False) as sink:
        await sink.resume(resume())
        for batch in range(batches):
            assert await sink.write([change(batch * ROWS + n) for n in range(ROWS)]) == []
            if batch % 10 == 9:
                await sink.seal()
        await sink.write([change(10**6, version=1_900_000_000 * 10**9)])
        await sink.seal(closing=True)
    bucket.calls.clear()
    return bucket


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits in memory before it goes to disk is reached by small lakes too."""
    monkeypatch.setattr(spill, "_BLOCK", 64)
    monkeypatch.setattr(spill, "_LOOK", 1)


class Allocated:
    """The most that was allocated beyond what there was at the beginning, in bytes."""

    def __enter__(self) -> Allocated:
        gc.collect()
        tracemalloc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


async def peaks(format: str, kept: list[Any]) -> list[int]:
    """Of a lake and of a larger one. `kept`: what a mutant keeps of one run."""
    found: list[int] = []
    for batches in (40, 40, 200):  # the first fills caches
        bucket = await lake(batches, format)
        asked = Asked(deep=True, parallel=2)
        lake_ = FakeLake(bucket)
        lake_.gets = Forgetful()
        with Allocated() as allocated:
            report = await Verification(lake_, OWNER, lake_, "cdc/", [], asked, lambda told: None, signs=False).run()
        kept.clear()
        assert (report.exit_code, report.rows) == (0, batches * ROWS + 1)
        found.append(allocated.peak)
    return found[1:]


class Forgetful(list[str]):
    """The fake's own memory of what was asked for is not what is measured."""

    def append(self, item: str) -> None:
        """Not kept."""


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.slow
async def test_a_verification_of_five_times_the_lake_allocates_no_more(format: str) -> None:
    small, large = await peaks(format, [])
    assert large < 1.05 * small, (small, large)


def _kept_facts(patch: pytest.MonkeyPatch, kept: list[Any]) -> None:
    add = Inventory.add

    def keep(self: Inventory, kind: Any, key: str, *more: Any, **named: Any) -> None:
        kept.append((kind, f"{key} ", more))
        add(self, kind, key, *more, **named)

    patch.setattr(Inventory, "add", keep)


def _kept_content(patch: pytest.MonkeyPatch, kept: list[Any]) -> None:
    take = Content.take

    def keep(self: Content, text: bytes) -> None:
        kept.append(text)
        take(self, text)

    patch.setattr(Content, "take", keep)


def _kept_ids(patch: pytest.MonkeyPatch, kept: list[Any]) -> None:
    add = spill.Spill.add

    def keep(self: spill.Spill, records: Any) -> None:
        kept.append(list(records))
        add(self, records)

    patch.setattr(spill.Spill, "add", keep)


@pytest.mark.parametrize("mutant", [_kept_facts, _kept_content, _kept_ids])
@pytest.mark.slow
async def test_the_control_that_keeps_something_in_memory_is_found_out(mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    mutant(monkeypatch, kept)
    small, large = await peaks("jsonl", kept)
    assert large > 1.05 * small, (small, large)

"""The sink's one law: after any number of crashes and one clean run, every change is in the lake exactly once. And what breaks it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from dsqlcdc.contract import Change, Setback, Unavailable
from dsqlcdc_s3 import S3Sink
from dsqlcdc_s3.batch import Begun
from dsqlcdc_s3.chain import Chain
from dsqlcdc_s3.delivered import is_void
from dsqlcdc_s3.manifest import Link, Manifest, PartEntry
from dsqlcdc_s3.objects import Missing, Objects, Put
from dsqlcdc_s3.parts import Parts, Voided

from .lives import Habits, play, verdict

BLOCKS, LIVES = 6, 500


def troubles(seeds: Sequence[int], **how: Any) -> tuple[int, int]:
    """How many of these histories lost something, and how many repeated something."""
    lost = repeated = 0
    for seed in seeds:
        found = verdict(play(seed, **how))
        lost += found[0] > 0
        repeated += found[1] > 0
    return lost, repeated


@pytest.mark.parametrize("block", range(BLOCKS))
def test_every_change_is_in_the_lake_exactly_once_whatever_crashes(block: int) -> None:
    assert troubles(range(block * LIVES, (block + 1) * LIVES)) == (0, 0)


def test_every_change_is_in_the_lake_exactly_once_as_parquet_too() -> None:
    assert troubles(range(150), options={"format": "parquet"}) == (0, 0)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_every_change_is_in_the_lake_exactly_once_in_a_hundred_thousand_histories() -> None:
    assert troubles(range(1_000_000, 1_100_000)) == (0, 0)


def test_the_histories_hold_what_they_should() -> None:
    """Crashes between manifest and part, voids, zombies that are stopped, answers that were lost: all of them happen."""
    voided = refused = several = 0
    for seed in range(300):
        world = play(seed)
        voided += any(manifest["voided"] for manifest in world.bucket.manifests())
        refused += any(put is Put.EXISTS for _, _, put in world.bucket.calls)
        several += len({manifest["writer"] for manifest in world.bucket.manifests()}) > 2
    assert voided > 60
    assert refused > 60
    assert several > 15


# ── the controls: every mistake must show ────────────────────────────────────────────────────────────────────────────────────────────


def test_duplicates_settled_before_their_original_are_lost() -> None:
    lost, _ = troubles(range(1500), habits=Habits(duplicates_share_fate=False))
    assert lost > 2


def test_a_pipeline_without_memory_repeats() -> None:
    _, repeated = troubles(range(200), habits=Habits(remembers=False))
    assert repeated > 20


class _NothingVoided(Parts):
    async def decide(self, manifests: Any, since: float) -> Voided:
        found = Voided()
        for manifest in manifests:
            for entry in manifest.parts:
                try:
                    await self._in(entry, since, found.delivered)
                except Unavailable:  # it is not there
                    found.parts.append(entry.key)
        return found


def test_without_voiding_a_late_part_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsqlcdc_s3.sink.Parts", _NothingVoided)
    _, repeated = troubles(range(200))
    assert repeated > 5


class _RefusedPartMeansDone(Parts):
    async def _ours(self, entry: PartEntry) -> None:
        return


def test_a_refused_put_taken_for_done_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsqlcdc_s3.sink.Parts", _RefusedPartMeansDone)
    lost, _ = troubles(range(400))
    assert lost > 2


class _Unconditional:
    """Objects that overwrite, and a probe that is none the wiser."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def put(self, key: str, body: bytes, *, if_none_match: bool, sha256: bytes, content_type: str) -> Put:
        return await self._objects.put(key, body, if_none_match=False, sha256=sha256, content_type=content_type)

    def get(self, key: str) -> AsyncGenerator[bytes, None]:
        return self._objects.get(key)

    async def list(self, prefix: str, start_after: str) -> Sequence[str]:
        return await self._objects.list(prefix, start_after)


class _NoProbe(Chain):
    async def verify_conditions(self, n: int, body: bytes) -> None:
        return


def test_plain_overwriting_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsqlcdc_s3.sink.Chain", _NoProbe)
    lost, _ = troubles(range(300), wrap=_Unconditional)
    assert lost > 20


class _PartsFirst(S3Sink):
    async def _claim(self, chain: Chain, parts: Parts, begun: Begun) -> bool:
        await parts.upload(begun)
        return await super()._claim(chain, parts, begun)


def test_a_manifest_after_its_parts_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsqlcdc_s3.sink.Parts", _RefusedPartMeansDone)
    lost, repeated = troubles(range(200), kind=_PartsFirst)
    assert lost + repeated > 20


class _Forgetful(S3Sink):
    """A batch that was not answered is forgotten, instead of gone on with or voided."""

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        try:
            return await super().write(changes)
        except Unavailable:
            if self._begun is not None and self._begun.claimed:
                self._pass(self._begun.manifest, Link("", ""))
            self._begun = None
            raise


def test_a_batch_begun_anew_beside_itself_repeats() -> None:
    _, repeated = troubles(range(200), kind=_Forgetful)
    assert repeated > 20


class _WordTooFar(S3Sink):
    """The word passes what was found in mid-run before it was told."""

    async def _decide(self, parts: Parts, manifest: Manifest) -> None:
        await super()._decide(parts, manifest)
        self._memory.untold.clear()


def test_lines_found_in_mid_run_and_forgotten_repeat() -> None:
    _, repeated = troubles(range(400), kind=_WordTooFar)
    assert repeated > 5


class _EpochsIgnored(Chain):
    async def taken(self, n: int, ours: bytes, epoch: int, writer: str) -> tuple[Manifest, Link] | None:
        return None


def test_a_refused_manifest_taken_for_ours_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsqlcdc_s3.sink.Chain", _EpochsIgnored)
    monkeypatch.setattr("dsqlcdc_s3.sink.Parts", _RefusedPartMeansDone)
    lost, repeated = troubles(range(200))
    assert lost > 2
    assert repeated > 5


async def test_a_part_that_is_missing_is_no_void() -> None:
    class Nothing:
        async def get(self, key: str) -> AsyncGenerator[bytes, None]:
            raise Missing(key)
            yield b""

    with pytest.raises(Missing):
        await is_void(Nothing(), "gone")  # type: ignore[arg-type]

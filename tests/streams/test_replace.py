"""Replacing a CDC stream: only where it is asked for, and never without its gap, wherever it is killed."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dsqlcdc.errors import Misconfigured
from dsqlcdc.local import Fault
from dsqlcdc.streams.sighting import Sighting, remember

from .manager import Manager, steps
from .mortal import Killed, Life


async def test_a_failed_stream_is_recreated_only_when_asked_and_leaves_a_gap_with_bounds(manager: Manager) -> None:
    first = (await manager.apply()).stream
    manager.live()[0].fail("KINESIS_STREAM_NOT_FOUND")
    with pytest.raises(Misconfigured, match="changes would be lost") as caught:
        await manager.apply()
    assert (caught.value.code, await manager.gaps(), manager.live()[0].id) == ("E174", [], first.id)
    done = await manager.apply(replace=True)
    assert (done.stream.status, steps(done)) == ("ACTIVE", [("replace", "replace")])
    assert [one.id for one in manager.live()] == [done.stream.id] != [first.id]
    (gap,) = await manager.gaps()
    assert [gap] == list(done.gaps)
    assert (gap.kind, gap.after, gap.until, gap.acked) == ("recreated", first.id, done.stream.id, "")
    assert abs(gap.from_time - first.created_at) < 1.0
    assert gap.to_time >= done.stream.created_at
    assert steps(await manager.apply(replace=True)) == []


@pytest.mark.slow
async def test_a_replacement_that_is_killed_at_any_call_loses_neither_stream_nor_gap(manager: Manager) -> None:
    await manager.apply()
    whole = Life()
    manager.live()[0].fail("KINESIS_STREAM_NOT_FOUND")
    await manager.apply(whole, replace=True)
    assert [whole.calls[number][1] for number in whole.writes] == ["record_gap", "delete_stream", "create_stream", "end_gap"]
    for last, after in whole.deaths:
        (old,) = manager.live()
        old.fail("KINESIS_STREAM_NOT_FOUND")

        def watch(old: Any = old) -> None:
            gone = old.status in ("DELETING", "DELETED")
            gaps = [gap for (_, _), gap in manager.store._gaps.items() if gap.after == old.id]  # pyright: ignore[reportPrivateUsage]
            assert gaps or not gone, "a stream was deleted before its gap was recorded"

        with pytest.raises(Killed):
            await manager.apply(Life(last, after=after, by_write=True, watch=watch), replace=True)
        done = await manager.apply(replace=True)
        assert done.stream.status == "ACTIVE"
        assert [one.id for one in manager.live()] == [done.stream.id] != [old.id]
        (gap,) = [gap for gap in await manager.gaps() if gap.after == old.id]
        assert gap.to_time >= done.stream.created_at
        assert gap.from_time <= old.created + 0.001  # the API gives milliseconds
        assert gap.until == done.stream.id


async def test_a_replacement_that_was_killed_after_the_deletion_needs_no_second_permission(manager: Manager) -> None:
    await manager.apply()
    old = manager.live()[0]
    old.fail("INTERNAL_ERROR")
    life = Life()
    manager.aws.faults.add(Fault(kind="error", service="dsql", operation="CreateStream", code="AccessDeniedException", status=403))
    with pytest.raises(Misconfigured):
        await manager.apply(life, replace=True)
    (open_gap,) = await manager.gaps()
    assert open_gap.to_time == 0.0
    done = await manager.apply()
    (gap,) = await manager.gaps()
    assert (gap.id, gap.until) == (open_gap.id, done.stream.id)


async def test_the_gap_begins_when_a_daemon_last_saw_the_stream_well(manager: Manager) -> None:
    done = await manager.apply()
    seen = time.time() - 0.5
    await remember(manager.store, manager.desired, Sighting(stream=done.stream.id, healthy_at=seen))
    manager.live()[0].fail("INTERNAL_ERROR")
    (gap,) = (await manager.apply(replace=True)).gaps
    assert gap.from_time == seen


async def test_a_stream_that_somebody_deleted_by_hand_leaves_its_gap_too(manager: Manager) -> None:
    done = await manager.apply()
    await remember(manager.store, manager.desired, Sighting(stream=done.stream.id, healthy_at=5.0))
    manager.live()[0].delete(0.0)
    (gap,) = (await manager.apply()).gaps
    assert (gap.after, gap.from_time) == (done.stream.id, 5.0)


async def test_a_gap_that_was_acknowledged_before_the_deletion_does_not_hide_the_loss(manager: Manager) -> None:
    await manager.apply()
    manager.live()[0].fail("INTERNAL_ERROR")
    manager.aws.faults.add(Fault(kind="error", service="dsql", operation="DeleteStream", code="AccessDeniedException", status=403))
    with pytest.raises(Misconfigured):
        await manager.apply(replace=True)
    (gap,) = await manager.gaps()
    await manager.store.ack_gap("orders-cdc", gap.id, "not deleted", 1.0)
    done = await manager.apply(replace=True)
    assert [gap.acked for gap in done.gaps if not gap.acked] == [""]
    assert len(await manager.gaps()) == 2


async def test_a_token_that_the_service_remembers_longer_than_its_stream_is_not_used_again(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsqlcdc.streams.cdc._APPEARS", 0.1)
    first = (await manager.apply()).stream
    tokens: dict[str, str] = {manager.live()[0].given["clientToken"]: first.id}
    create = manager.aws.dsql.create_stream

    def remembers(cluster: str, given: dict[str, Any]) -> Any:
        known = tokens.get(given["clientToken"])
        if known is not None:
            return manager.aws.dsql.clusters[cluster].streams[known]
        made = create(cluster, given)
        tokens[given["clientToken"]] = made.id
        return made

    monkeypatch.setattr(manager.aws.dsql, "create_stream", remembers)
    manager.live()[0].fail("INTERNAL_ERROR")
    done = await manager.apply(replace=True)
    assert done.stream.id != first.id
    assert len(tokens) == 2

"""The Kinesis stream that DSQL writes to: made, and brought to what is wanted, a change at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from dsqlcdc.errors import Misconfigured
from dsqlcdc.streams.observe import get_target
from dsqlcdc.streams.observed import TargetState
from dsqlcdc.streams.wanted import made_tags, same_key
from dsqlcdc.streams.work import Work


async def make(work: Work) -> None:
    """Create the stream and wait until it is ACTIVE. One that another call has made is taken as it is."""
    wanted, clients = work.desired.target, work.clients
    if await get_target(clients, wanted.name) is not None:
        await _until_gone(work)
    mode: dict[str, Any] = {"StreamModeDetails": {"StreamMode": wanted.mode.upper()}}
    if wanted.mode == "provisioned":
        mode["ShardCount"] = wanted.shards or 1
    await clients.ask(
        clients.kinesis.create_stream,
        doing="create the stream",
        **_about(work),
        done=("ResourceInUseException",),
        StreamName=wanted.name,
        MaxRecordSizeInKiB=wanted.max_record_kib,
        Tags=made_tags(work.desired),
        **mode,
    )
    await settled(work)


async def raise_record_size(work: Work) -> None:
    wanted, clients = work.desired.target, work.clients

    async def update(there: TargetState) -> None:
        call = clients.kinesis.update_max_record_size
        await clients.ask(
            call, doing="raise the record size", **_about(work), StreamARN=there.arn, MaxRecordSizeInKiB=wanted.max_record_kib
        )

    await _reach(work, lambda there: there.max_record_kib >= wanted.max_record_kib, update)


async def raise_retention(work: Work) -> None:
    wanted, clients = work.desired.target, work.clients

    async def update(there: TargetState) -> None:
        call = clients.kinesis.increase_stream_retention_period
        await clients.ask(
            call, doing="raise the retention", **_about(work), StreamARN=there.arn, RetentionPeriodHours=wanted.retention_hours
        )

    await _reach(work, lambda there: there.retention_hours >= wanted.retention_hours, update)


async def change_mode(work: Work) -> None:
    wanted, clients = work.desired.target, work.clients

    async def update(there: TargetState) -> None:
        mode = {"StreamMode": wanted.mode.upper()}
        call = clients.kinesis.update_stream_mode
        await clients.ask(call, doing="change the stream's mode", **_about(work), StreamARN=there.arn, StreamModeDetails=mode)

    await _reach(work, lambda there: there.mode == wanted.mode, update)


async def reshard(work: Work, shards: int) -> None:
    """Raise the number of shards, at most to twice as many: what a provisioned stream takes grows with them."""
    clients = work.clients

    async def update(there: TargetState) -> None:
        given: dict[str, Any] = {"StreamARN": there.arn, "TargetShardCount": shards, "ScalingType": "UNIFORM_SCALING"}
        await clients.ask(clients.kinesis.update_shard_count, doing="raise the number of shards", **_about(work), **given)

    await _reach(work, lambda there: there.open_shards >= shards, update)


async def encrypt(work: Work) -> None:
    clients, key = work.clients, work.desired.target.kms_key or ""

    async def update(there: TargetState) -> None:
        call = clients.kinesis.start_stream_encryption
        await clients.ask(call, doing="encrypt the stream", **_about(work), StreamARN=there.arn, EncryptionType="KMS", KeyId=key)

    await _reach(work, lambda there: same_key(key, there.kms_key, work.observed), update)


async def tag(work: Work) -> None:
    clients, name, there = work.clients, work.desired.target.name, work.observed.target
    call = clients.kinesis.add_tags_to_stream
    await clients.ask(
        call,
        doing="tag the stream",
        **_about(work),
        StreamName=name,
        Tags=made_tags(work.desired, there.tags if there is not None else None),
    )


async def delete(work: Work) -> None:
    """Delete the stream with all records in it, unless it is being deleted, and wait until it is gone."""
    clients, name, there = work.clients, work.desired.target.name, work.observed.target
    if there is None or there.status != "DELETING":
        await clients.find(clients.kinesis.delete_stream, doing="delete the stream", **_about(work), StreamName=name)
    await _until_gone(work)


async def settled(work: Work) -> TargetState:
    """The stream once it is ACTIVE: while it is UPDATING nothing else of it can be changed."""

    async def look() -> TargetState | None:
        return await get_target(work.clients, work.desired.target.name)

    found = await work.until(look, lambda seen: seen is not None and seen.status == "ACTIVE", lambda seen: _words(work, seen))
    assert found is not None
    return found


async def _until_gone(work: Work) -> None:
    """While it is being deleted; one that is not, stays."""

    async def look() -> TargetState | None:
        return await get_target(work.clients, work.desired.target.name)

    await work.until(look, lambda seen: seen is None or seen.status != "DELETING", lambda seen: _words(work, seen))


async def _reach(work: Work, reached: Callable[[TargetState], bool], update: Callable[[TargetState], Awaitable[None]]) -> None:
    """Update unless it is so. A refusal counts for nothing where it turns out to be so: an answer was lost, or another was faster."""
    there = await settled(work)
    if reached(there):
        return
    try:
        await update(there)
    except Misconfigured:
        if not reached(await settled(work)):
            raise
    await settled(work)


def _words(work: Work, seen: TargetState | None) -> str:
    return f"Kinesis stream {work.desired.target.name} is {seen.status if seen is not None else 'not visible yet'}"


def _about(work: Work) -> dict[str, str]:
    name = work.desired.target.name
    return {"where": f"kinesis stream {name}", "resource": work.clients.stream_arn(name)}

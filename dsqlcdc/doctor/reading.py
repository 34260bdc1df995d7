"""Reading the stream as the consumer will: its rights, its shards, and a short sample of what is in it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from dsqlcdc.aws import Aws, client, errors, translate
from dsqlcdc.core.records import TRIM_HORIZON, Position, Record
from dsqlcdc.doctor.finding import Finding, found, of_fault
from dsqlcdc.errors import Fault
from dsqlcdc.sources.service import Description, Oversize, Service, Throttled
from dsqlcdc.sources.shards import hole_words, holes

SHARDS, READS, RECORDS = 4, 4, 200
"""How short the sample is: so many shards (partition keys are random, any shard has its share), reads of each, records a read."""
_BACK = 3600.0
_ROOM = 16 * 1024 * 1024


class Reading(msgspec.Struct):
    """What came of it. `description` None: the stream could not even be described."""

    description: Description | None = None
    records: list[tuple[str, Record]] = []
    throttles: int = 0
    findings: list[Finding] = []


async def read_a_little(service: Service) -> Reading:
    """Describe the stream, list its shards, read a few records of some. Nothing of that moves a checkpoint; it shares the shards' read limits."""
    reading = Reading()
    try:
        reading.description = description = await service.describe()
        shards = await service.list_shards()
        if missing := holes(shards):
            why = f"no open shard covers the hash keys {hole_words(missing)}"
            remedy = f"Wait a minute, then run: aws kinesis list-shards --stream-name {description.name}"
            where = f"kinesis stream {description.name}"
            reading.findings.append(found("E405", "the listing of shards is not whole", where=where, why=why, remedy=remedy))
        since = Position("time", arrived=description.now - _BACK)
        for shard in [shard for shard in shards if not shard.closed][:SHARDS]:
            if not await _shard(service, shard.id, since, reading):
                await _shard(service, shard.id, TRIM_HORIZON, reading)
    except Throttled:
        reading.throttles += 1
    except Fault as fault:
        reading.findings.append(of_fault(fault))
    return reading


async def _shard(service: Service, shard: str, since: Position, reading: Reading) -> int:
    """How many records were read."""
    iterator: str | None = await service.iterator(shard, since)
    read = 0
    for _ in range(READS):
        if iterator is None or read >= RECORDS:
            break
        try:
            reply = await service.records(shard, iterator, RECORDS, _admit)
        except Throttled:
            reading.throttles += 1
            break
        except Oversize:
            break
        reading.records += [(shard, record) for record in reply.records]
        read += len(reply.records)
        iterator = reply.iterator
        if not reply.behind:
            break
    return read


async def _admit(size: int) -> None:
    if size > _ROOM:
        raise Oversize(size, "the doctor's sample")


async def throttled_lately(aws: Aws, stream: str, now: float) -> tuple[float, Sequence[Finding]]:
    """How many reads of the stream were refused within the last hour, by all its readers together, as CloudWatch counts."""
    try:
        async with client("cloudwatch", aws) as cloudwatch:
            answer = await cloudwatch.get_metric_statistics(
                Namespace="AWS/Kinesis",
                MetricName="ReadProvisionedThroughputExceeded",
                Dimensions=[{"Name": "StreamName", "Value": stream}],
                StartTime=datetime.fromtimestamp(now - _BACK, UTC),
                EndTime=datetime.fromtimestamp(now + 60, UTC),
                Period=int(_BACK),
                Statistics=["Sum"],
            )
    except errors() as error:
        fault = translate(error, doing="ask how often reads were throttled", where=f"metrics of stream {stream}", resource="*")
        return 0.0, [of_fault(fault, severity="info")]
    except Fault as fault:
        return 0.0, [of_fault(fault, severity="info")]
    return sum(float(point["Sum"]) for point in answer["Datapoints"]), ()


def check_budget(stream: str, throttles: int, lately: float, reads_per_second: float) -> list[Finding]:
    """The read limits that all readers of the stream share. `throttles`: of the doctor's own few reads."""
    if not throttles and not lately:
        return []
    why = f"{lately:.0f} reads were refused within the last hour" if lately else "reads were refused while the doctor read"
    why += f"; a shard gives 5 reads and 2 MB a second to all its readers together, of which dsqlcdc takes up to {reads_per_second:g}"
    remedy = (
        "Lower source.reads_per_second and source.bytes_per_second, or move the other readers to enhanced fan-out. "
        "Who reads by it: aws kinesis list-stream-consumers --stream-arn ARN; event source mappings: aws lambda list-event-source-mappings"
    )
    return [found("E182", "readers of the stream starve each other", where=f"kinesis stream {stream}", why=why, remedy=remedy)]

"""How far a CDC stream is behind the database, as CloudWatch says: the service's own measure, which sees what is not delivered too."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from dsqlcdc.aws import errors, translate
from dsqlcdc.streams.clients import Clients
from dsqlcdc.streams.observed import CdcStream

NAMESPACE, METRIC = "AWS/AuroraDSQL", "BehindSourceLag"
"""Milliseconds, by ClusterId and StreamId (spec §1)."""
_BACK = 300.0
"""Seconds: metrics come a minute or two late."""


async def behind(clients: Clients, stream: CdcStream, now: float) -> float | None:
    """Seconds that the stream is behind, by the newest minute of which something is known; None where nothing is. Asked once.

    Raises Misconfigured (E102 where cloudwatch:GetMetricData is denied) and Unavailable.
    """
    dimensions = [{"Name": "ClusterId", "Value": stream.cluster}, {"Name": "StreamId", "Value": stream.id}]
    metric = {"Namespace": NAMESPACE, "MetricName": METRIC, "Dimensions": dimensions}
    query = {"Id": "lag", "MetricStat": {"Metric": metric, "Period": 60, "Stat": "Average"}}
    start = now - now % 60.0 - _BACK
    try:
        answer: Any = await clients.cloudwatch.get_metric_data(
            MetricDataQueries=[query],
            StartTime=datetime.fromtimestamp(start, UTC),
            EndTime=datetime.fromtimestamp(now + 60.0, UTC),
            ScanBy="TimestampDescending",
        )
    except errors() as error:
        where = f"cluster {stream.cluster}, stream {stream.id}"
        raise translate(error, doing="ask how far the CDC stream is behind", where=where, resource="*") from error
    values: list[float] = [value for result in answer["MetricDataResults"] for value in result["Values"]]
    return max(0.0, values[0] / 1000) if values else None

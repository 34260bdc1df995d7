"""Metrics of an invocation in CloudWatch's embedded metric format: one JSON line for each sink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

from dsqlcdc.contract import Outcome
from dsqlcdc.hosts.invocation import Work

MEANINGS: Mapping[str, tuple[str, str]] = {
    "dsqlcdc_read": ("Count", "Records read: the sum of the outcomes and `dsqlcdc_open`"),
    **{f"dsqlcdc_{outcome.value}": ("Count", f"Records settled as `{outcome.value}`") for outcome in Outcome},
    "dsqlcdc_open": ("Count", "Records still owed when the invocation ended: they come again"),
    "dsqlcdc_letters": ("Count", "Dead letters written"),
    "dsqlcdc_retries": ("Count", "Calls that were not answered, and made again"),
    "dsqlcdc_gaps": ("Count", "Oversized rows given up (by the sweeper)"),
    "dsqlcdc_stopped": ("Count", "1 where the sink could not go on"),
    "dsqlcdc_digests": ("Count", "Digests written (by the sweeper, of s3 sinks)"),
    "dsqlcdc_digest_failed": (
        "Count",
        "1 where digests that are due could not be written, 0 where they could (by the sweeper, of s3 sinks)",
    ),
    "dsqlcdc_age": ("Milliseconds", "Between the arrival of the batch's first record and the answer"),
}
"""Every metric with its unit and what it says. All have the dimensions `pipeline` and `sink`."""


def lines(work: Work, namespace: str, now: float, oldest: float | None) -> Sequence[str]:
    """The lines, one a sink. Times are seconds since the epoch; `oldest`: when the first record of the batch arrived."""
    found: list[str] = []
    for status in work.statuses:
        values: dict[str, float] = {
            "dsqlcdc_read": status.read,
            **{f"dsqlcdc_{outcome}": count for outcome, count in status.settled.items()},
            "dsqlcdc_open": status.open,
            "dsqlcdc_letters": status.letters,
            "dsqlcdc_retries": sum(status.retries.values()),
            "dsqlcdc_gaps": sum(gap.sink == status.sink for gap in work.gaps),
            "dsqlcdc_stopped": int(status.sink in work.faults),
        }
        if oldest is not None:
            values["dsqlcdc_age"] = max(0.0, (now - oldest) * 1000)
        found.append(_line(status.pipeline, status.sink, values, namespace, now))
    return found


def digests(pipeline: str, sink: str, written: int, *, failed: bool, namespace: str, now: float) -> str:
    """The line of a sink whose digests were looked at: how many were written, and whether some could not be."""
    return _line(pipeline, sink, {"dsqlcdc_digests": written, "dsqlcdc_digest_failed": int(failed)}, namespace, now)


def _line(pipeline: str, sink: str, values: Mapping[str, float], namespace: str, now: float) -> str:
    metrics = [{"Name": name, "Unit": MEANINGS[name][0]} for name in values]
    directive = {"Namespace": namespace, "Dimensions": [["pipeline", "sink"]], "Metrics": metrics}
    about = {"_aws": {"Timestamp": int(now * 1000), "CloudWatchMetrics": [directive]}, "pipeline": pipeline, "sink": sink}
    return orjson.dumps({**about, **values}).decode()

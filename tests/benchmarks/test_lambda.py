"""The Lambda handler, warm: CPU of an invocation of 1,000 records into `drop`, beyond parsing the event's JSON, which the runtime does."""

from __future__ import annotations

import base64
import json
import statistics
import time
from typing import Any

import pytest

from dsqlcdc.hosts.aws_lambda import Function
from tests.benchmarks import harness
from tests.benchmarks.fake_kinesis import T0, record

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]

RECORDS, CALLS = 1000, 30
CONFIG = """\
pipeline: bench
aws: {{region: us-east-1, endpoint_url: "{endpoint}"}}
source: {{stream: bench}}
tables: {{"public.order_items": {{key: [order_id, item_id]}}}}
sinks: {{out: {{type: drop}}}}
dead_letters: {{type: s3, bucket: bench}}
fragments: {{type: s3, bucket: bench}}
"""


class _Context:
    def get_remaining_time_in_millis(self) -> int:
        return 60_000


def _event(call: int) -> dict[str, Any]:
    def entry(n: int) -> dict[str, Any]:
        sequence = f"4966{n:052d}"
        kinesis = {"sequenceNumber": sequence, "approximateArrivalTimestamp": T0 / 1e9 + n, "data": base64.b64encode(record(n)).decode()}
        return {
            "eventSource": "aws:kinesis",
            "eventID": f"shardId-000000000000:{sequence}",
            "eventSourceARN": "arn:aws:kinesis:us-east-1:123456789012:stream/bench",
            "kinesis": {"kinesisSchemaVersion": "1.0", "partitionKey": f"{n:032x}", **kinesis},
        }

    return json.loads(json.dumps({"Records": [entry(call * RECORDS + n) for n in range(RECORDS)]}))  # type: ignore[no-any-return]


def test_a_warm_invocation_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in harness.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    costs: list[float] = []
    with harness.kinesis(records=4, s3=1) as endpoint:
        function = Function({"DSQLCDC_CONFIG": CONFIG.format(endpoint=endpoint), "DSQLCDC_LOG_LEVEL": "error"})
        try:
            for call in range(CALLS):
                event = _event(call)
                before = time.process_time()
                assert function.handle(event, _Context()) == {"batchItemFailures": []}
                costs.append((time.process_time() - before) * 1000)
        finally:
            function.close()
    warm = costs[3:]
    print(f"\n  the first {costs[0]:.0f} ms, warm {min(warm):.1f} to {max(warm):.1f} ms")
    harness.judge("Lambda, warm, 1,000 records into drop, CPU", statistics.median(warm), 15, held=30, least=False, unit=" ms")

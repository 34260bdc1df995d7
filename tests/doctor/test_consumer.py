"""The consumer's side: what it keeps, what it reads, and where it writes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from dsqlcdc.core.ports import Commit, DeadLetter, Gap, Name
from dsqlcdc.core.records import Mark, Position
from dsqlcdc.stores.files import FileDeadLetters
from dsqlcdc.stores.sqlite_checkpoints import SqliteCheckpoints

from .conftest import STREAM, Shop

SECRET = "whsec_" + "Q" * 32
HOOK = f"{{hook: {{type: webhook, url: 'https://127.0.0.1:9/?token=hidden-token', secrets: [{SECRET}], allow_private: [127.0.0.0/8]}}}}"


def stored(shop: Shop, work: Callable[[SqliteCheckpoints], Awaitable[Any]]) -> None:
    async def do() -> None:
        store = SqliteCheckpoints(shop.directory / "state.db")
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(do())


def test_gaps_dead_letters_and_an_old_checkpoint_are_told(shop: Shop) -> None:
    described = shop.ask("kinesis", lambda kinesis: kinesis.describe_stream_summary(StreamName=STREAM))["StreamDescriptionSummary"]
    made = datetime.fromtimestamp(described["StreamCreationTimestamp"].timestamp(), UTC)
    name = Name("orders-cdc", "lake", f"{STREAM}@{made:%Y%m%dT%H%M%SZ}")
    old = time.time() - 100 * 3600
    gap = Gap("g1", "orders-cdc", "lake", name.stream, "trimmed", "shardId-000000000001", detail="trimmed unread")
    stored(shop, lambda store: store.commit(name, Commit({"shardId-000000000001": Mark(Position("after", "1", old), old)})))
    stored(shop, lambda store: store.record_gap(gap))
    letter = DeadLetter(
        pipeline="orders-cdc", sink="", stream=name.stream, shard="s", sequence="1", arrived=1.0, code="unreadable", detail="x", raw=b"{"
    )
    assert asyncio.run(FileDeadLetters(shop.directory / "dead-letters").put(letter))
    found = shop.findings()
    assert found.keys() == {"E183", "E184", "E185"}
    assert found["E183"]["severity"] == "warning"
    assert "gaps ack g1" in found["E184"]["remedy"]
    assert "1 unreadable" in found["E185"]["why"]


def test_a_state_that_is_another_programs_is_told_under_its_own_code(shop: Shop) -> None:
    (shop.directory / "state.db").write_bytes(b"not a database, and longer than a header of one" * 100)
    assert "E203" in shop.findings("error")


def test_a_shared_state_is_read_and_tried_for_writing(shop: Shop) -> None:
    shop.write(more="state: {type: dynamodb, table: dsqlcdc}\nfragments: {type: memory}")
    assert shop.findings("error").keys() == {"E103"}
    shop.write(more="state: {type: dynamodb, table: dsqlcdc, create: true}\nfragments: {type: memory}")
    assert shop.doctor()[0] == 0
    keys = [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}]
    types = [{"AttributeName": key, "AttributeType": "S"} for key in ("pk", "sk")]
    given = {"KeySchema": keys, "AttributeDefinitions": types, "BillingMode": "PAY_PER_REQUEST"}
    shop.ask("dynamodb", lambda dynamodb: dynamodb.create_table(TableName="dsqlcdc", **given))
    assert shop.doctor()[0] == 0
    assert shop.ask("dynamodb", lambda dynamodb: dynamodb.scan(TableName="dsqlcdc"))["Count"] == 0
    shop.aws.deny("dynamodb:PutItem")
    assert "dynamodb:PutItem" in shop.findings("error")["E102"]["remedy"]


def test_readers_that_starve_each_other_are_told_by_what_was_refused(shop: Shop) -> None:
    shop.aws.control("throttle", refuse_reads=50)
    assert shop.findings().keys() == {"E182"}
    shop.aws.control("throttle", refuse_reads=0)
    datum = {
        "MetricName": "ReadProvisionedThroughputExceeded",
        "Dimensions": [{"Name": "StreamName", "Value": STREAM}],
        "Value": 41.0,
    }
    shop.ask("cloudwatch", lambda cloudwatch: cloudwatch.put_metric_data(Namespace="AWS/Kinesis", MetricData=[datum]))
    assert "41 reads" in shop.findings()["E182"]["why"]


def test_tables_and_records_of_the_stream_are_held_against_the_config(shop: Shop) -> None:
    shop.aws.commit(cluster=shop.cluster, transactions=100)
    shop.aws.record(STREAM, b"nonsense")
    shop.write(tables='{public.orders: {key: [id]}, "shop.*": {key: [id]}}')
    found = shop.findings()
    assert found.keys() == {"E430", "E431", "E432", "E433"}
    assert {code: one["severity"] for code, one in found.items()} == {"E430": "warning", "E431": "error", "E432": "info", "E433": "warning"}


def test_a_sink_that_cannot_be_tried_is_told_and_one_that_answers_is_not(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from dsqlcdc.sinks_builtin import Drop

    shop.write(sinks="{lake: {type: s3, bucket: lake, prefix: cdc/}, none: {type: drop}}")
    assert shop.doctor()[1]["findings"] == []
    monkeypatch.delattr(Drop, "probe")  # as a third party's sink that does not say how
    assert shop.findings().keys() == {"E189"}


def test_a_lake_of_another_sink_and_a_missing_bucket_are_told_by_the_sinks_own_probe(shop: Shop) -> None:
    shop.write(sinks="{lake: {type: s3, bucket: nowhere, prefix: cdc/}}")
    found = shop.findings("error")
    assert found.keys() == {"E103"}
    assert "nowhere" in found["E103"]["where"]


def test_secrets_are_in_no_finding(shop: Shop) -> None:
    shop.write(sinks=HOOK)
    code, told, said = shop.doctor()
    assert (code, [one["code"] for one in told["findings"]]) == (1, ["DSQLCDC-E140"])
    text = str(told) + said
    assert "hidden-token" not in text
    assert SECRET not in text
    assert "127.0.0.1" in text


def test_people_read_the_same_findings(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    from dsqlcdc.cli.app import invoke

    shop.write(sinks=HOOK)
    assert invoke(["doctor", str(shop.config)]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("ERROR   DSQLCDC-E140  the receiver does not take changes, sink hook, 127.0.0.1\n")
    assert err.endswith("1 error.\n")

"""The generator's laws: what it writes is what was committed, however it is cut, doubled and shuffled."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import google_crc32c
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsqlcdc.local import Clock, Commit, Committed, Local, Statement
from dsqlcdc.local.database import Database, Net
from dsqlcdc.local.envelope import Event, Source, cut_text, records
from dsqlcdc.local.values import DRAWS

Row = dict[str, Any]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
rows = st.dictionaries(texts, st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), texts), max_size=5)


def assemble(written: Iterable[bytes]) -> list[Row]:
    """An independent reader: main and full records, with the images of cut rows put back."""
    pieces: dict[tuple[str, int], str] = {}
    events: list[Row] = []
    for raw in written:
        event = json.loads(raw)
        if event.get("type") == "fragment":
            pieces[event["chunk_id"], event["index"]] = event["data"]
        else:
            events.append(event)
    for event in events:
        for image, cut in event.get("chunked", {}).items():
            assert event[image] is None
            text = "".join(pieces[cut["chunk_id"], index] for index in range(cut["total_fragments"]))
            assert cut["crc32c"] == str(google_crc32c.value(text.encode()))
            event[image] = json.loads(text)
    return events


@given(before=st.one_of(st.none(), rows), after=st.one_of(st.none(), rows), limit=st.integers(700, 900), seed=st.integers(0, 99))
def test_the_pieces_of_an_oversized_row_are_its_image_in_any_order(before: Row | None, after: Row | None, limit: int, seed: int) -> None:
    rng = random.Random(seed)
    event = Event(Source(1_700_000_000_123_456_789, "tx", "c"), "s", "t", "u", before, after)
    written = records(event, sent_at=1, rng=rng, limit=limit)
    assert all(len(raw) <= limit for raw in written)
    rng.shuffle(written)
    (found,) = assemble(written)
    assert (found["before"], found["after"]) == (before, after)
    assert found["source"]["ts_ns"] == 1_700_000_000_123_456_789


def boundaries_hold(cut: Callable[[bytes, int], Sequence[bytes]]) -> None:
    @settings(database=None)
    @given(text=texts, limit=st.integers(32, 90))
    def law(text: str, limit: int) -> None:
        pieces = cut(text.encode(), limit)
        assert "".join(piece.decode() for piece in pieces) == text
        assert all(piece and len(msgspec.json.encode(piece.decode())) <= limit for piece in pieces)

    law()


def test_no_piece_ends_within_a_character() -> None:
    boundaries_hold(cut_text)


def test_control_a_cut_at_any_byte_is_caught() -> None:
    with pytest.raises(UnicodeDecodeError):
        boundaries_hold(lambda text, limit: [text[start : start + limit // 7] for start in range(0, len(text), limit // 7)])


verbs = st.lists(st.tuples(st.sampled_from(["insert", "update", "delete"]), st.integers(0, 2), st.integers(0, 9)), max_size=12)


def compaction_holds(transact: Callable[[Database, list[Statement]], list[Net]]) -> None:
    """Each row at most once, with its net effect: the difference of the table before and after."""

    @settings(database=None)
    @given(st.lists(verbs, max_size=4))
    def law(transactions: list[list[tuple[str, int, int]]]) -> None:
        database = Database()
        database.declare("t.t", ["id"])
        shadow: dict[int, int] = {}
        for drawn in transactions:
            before, statements, touched = dict(shadow), [], set()
            for verb, key, value in drawn:
                if (verb == "insert") == (key in shadow):
                    continue
                touched.add(key)
                if verb == "delete":
                    del shadow[key]
                    statements.append(Statement("t.t", "delete", key={"id": key}))
                else:
                    shadow[key] = value
                    row = {"id": key, "v": value}
                    statements.append(Statement("t.t", "insert", row) if verb == "insert" else Statement("t.t", "update", row, {"id": key}))
            expected = {}
            for key in touched:
                if key in shadow:
                    expected[key] = ("u" if key in before else "c", {"id": key, "v": shadow[key]})
                elif key in before:
                    expected[key] = ("d", None)
            nets = transact(database, statements)
            assert len(nets) == len(expected)
            assert {net.key["id"]: (net.op, net.after) for net in nets if net.key} == expected

    law()


def test_a_transactions_write_set_is_compacted_to_its_net_effect() -> None:
    compaction_holds(Database.transact)


def test_control_one_record_a_statement_is_caught() -> None:
    with pytest.raises(AssertionError):
        compaction_holds(lambda database, statements: [net for one in statements for net in database.transact([one])])


def test_a_refused_statement_undoes_its_transaction() -> None:
    database = Database()
    database.declare("t.t", ["id"])
    database.transact([Statement("t.t", "insert", {"id": 1, "v": 1})])
    with pytest.raises(ValueError, match="there is no row"):
        database.transact(
            [
                Statement("t.t", "update", {"v": 2}, {"id": 1}),
                Statement("t.t", "insert", {"id": 2}),
                Statement("t.t", "delete", key={"id": 3}),
            ]
        )
    assert database.table("t.t").rows == {(1,): {"id": 1, "v": 1}}


async def written(commits: Sequence[Commit], seed: int = 0) -> tuple[list[bytes], list[Committed], dict[Any, Row | None]]:
    """Everything on the stream shard by shard, the truth, and the state it says."""
    aws = Local(seed=seed, oversize=20_000, clock=Clock(1_700_000_000.0, lambda: 0.0))
    aws.pipe("s", shards=3)
    for commit in commits:
        await aws.commit(commit)
    found = [json.loads(one)["Data"] for shard in aws.kinesis.stream("s").shards.values() for one in shard.read(0, 10_000, 0.0)[0]]
    generator = aws.generator()
    state = {where: change.row for where, change in generator.state().items()}
    await aws.others.close()
    return [base64.b64decode(data) for data in found], generator.changes, state


def replay(events: list[Row], keys: dict[str, list[str]], newest: Callable[[int, int], bool]) -> dict[Any, Row]:
    """A replica by last writer wins: deletes leave a tombstone. `newest` decides whether a version replaces another."""
    held: dict[Any, tuple[int, Row | None]] = {}
    for event in events:
        source = event["source"]
        table = f"{source['schema']}.{source['table']}"
        if not keys[table]:
            continue
        image = event["before"] if event["op"] == "d" else event["after"]
        where = table, tuple(image[column] for column in keys[table])
        if where not in held or newest(source["ts_ns"], held[where][0]):
            held[where] = source["ts_ns"], event["after"]
    return {where: row for where, (_, row) in held.items() if row is not None}


def same(left: dict[Any, Row], right: dict[Any, Row]) -> bool:
    """Row for row; an absent column is NULL (spec §5)."""
    if left.keys() != right.keys():
        return False
    return all({c: v for c, v in left[w].items() if v is not None} == {c: v for c, v in right[w].items() if v is not None} for w in left)


KEYS = {name: list(table.key) for name, table in Database().tables.items()}
BUSY = Commit(transactions=60, duplicates=0.3, disorder=40, deviations=0.4, oversize=1, oversize_bytes=60_000, evolve=["public.orders"])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_truth_is_what_last_writer_wins_makes_of_the_records(seed: int) -> None:
    found, changes, state = asyncio.run(written([BUSY, Commit(transactions=20, repeat=30)], seed))
    assert same(replay(assemble(found), KEYS, lambda new, held: new > held), {w: r for w, r in state.items() if r is not None})
    sent = {(e["source"]["table"], e["source"]["ts_ns"], e["op"]) for e in assemble(found)}
    assert sent == {(change.table, change.version, change.sent_op) for change in changes}


def test_control_a_replica_that_takes_what_comes_last_differs() -> None:
    differs = 0
    for seed in range(5):
        found, _, state = asyncio.run(written([BUSY], seed))
        differs += not same(replay(assemble(found), KEYS, lambda _new, _held: True), {w: r for w, r in state.items() if r is not None})
    assert differs > 0


def test_a_12_mib_row_is_cut_at_9_mib_into_records_that_kinesis_takes() -> None:
    async def main() -> tuple[list[bytes], Committed]:
        aws = Local(clock=Clock(1_700_000_000.0, lambda: 0.0))
        aws.pipe("s", shards=1)
        await aws.commit(Commit(transactions=1, tables=["app.notes"], oversize=1))
        shard = aws.kinesis.stream("s").shard("shardId-000000000000")
        out: list[bytes] = []
        number = 0
        while number < shard.next:
            page, number, _ = shard.read(number, 10_000, 0.0)
            out += [base64.b64decode(json.loads(one)["Data"]) for one in page]
        await aws.others.close()
        return out, aws.generator().changes[-1]

    found, change = asyncio.run(main())
    fragments = [raw for raw in found if b'"type":"fragment"' in raw[:30]]
    assert len(fragments) == 2
    assert 8 * 2**20 < max(map(len, found)) < 10 * 2**20
    (event,) = [event for event in assemble(found) if "chunked" in event]
    assert event["after"] == change.row
    assert 12 * 2**20 <= len(msgspec.json.encode(change.row)) < 13 * 2**20


def test_one_seed_gives_the_same_records_and_another_does_not() -> None:
    assert asyncio.run(written([BUSY], 7)) == asyncio.run(written([BUSY], 7))
    assert asyncio.run(written([BUSY], 7))[0] != asyncio.run(written([BUSY], 8))[0]


def test_commit_times_are_unique_and_grow_and_a_transaction_has_one() -> None:
    _, changes, _ = asyncio.run(written([Commit(transactions=200)]))
    by_transaction = {change.transaction: change.version for change in changes}
    versions = list(by_transaction.values())
    assert versions == sorted(set(versions))
    assert all(by_transaction[change.transaction] == change.version for change in changes)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz234567") for name in by_transaction)


def test_every_deviation_of_the_wire_is_written() -> None:
    found, _, _ = asyncio.run(written([Commit(transactions=400, deviations=0.7)]))
    events = [json.loads(raw) for raw in found]
    full = [event for event in events if "source" in event]
    assert any("type" not in event for event in full)
    assert any("ts_ns" not in event for event in full)
    assert any(event.get("ts_ms", event["source"]["ts_ms"]) < event["source"]["ts_ms"] for event in full)
    assert any(event["op"] not in "cud" for event in full)
    every = [event["after"] for event in full if event["source"]["table"] == "every_type" and event["after"]]
    assert {len(row) for row in every} != {len(DRAWS) + 1}
    assert all(event["source"]["version"] == "1.0" and event["source"]["db"] == "postgres" for event in full)


def test_every_encoding_and_its_special_values_are_drawn() -> None:
    found, _, _ = asyncio.run(written([Commit(transactions=600, tables=["public.every_type"])]))
    rows = [event["after"] for event in map(json.loads, found) if event.get("after")]
    values = {column: {json.dumps(row[column]) for row in rows} for column in rows[0]}
    assert set(values) == {"id"} | {f"a_{kind}" for kind in DRAWS}
    for column in ("a_real", "a_double", "a_numeric"):
        assert {'"NaN"', '"Infinity"', '"-Infinity"'} <= values[column]
    assert {"9223372036825200000", "-9223372036832400000", "null"} <= values["a_timestamptz"]
    assert {"9223372036854775807", "-9223372036854775808"} <= values["a_bigint"]
    assert values["a_oidvector"] == {"[]", "null"}


def test_old_and_new_columns_of_one_table_mix() -> None:
    commits = [Commit(transactions=150, tables=["public.orders"], evolve=["public.orders"], disorder=100) for _ in range(3)]
    found, _, _ = asyncio.run(written(commits))
    shapes = [frozenset(event["after"]) for event in map(json.loads, found) if event.get("after")]
    changes = sum(left != right for left, right in pairwise(shapes))
    assert len(set(shapes)) == 3
    assert changes > 10


def test_a_keyless_tables_delete_names_no_row() -> None:
    found, changes, _ = asyncio.run(written([Commit(transactions=200, tables=["audit.events"])]))
    deletes = [event for event in map(json.loads, found) if event["op"] == "d"]
    assert deletes
    assert all(event["before"] is None and event["after"] is None for event in deletes)
    assert all(change.key is None for change in changes)


def test_the_random_partition_keys_spread_one_rows_changes_over_shards() -> None:
    async def main() -> int:
        aws = Local()
        aws.pipe("s", shards=4)
        update = [Statement("t.t", "update", {"v": 1}, {"id": 1})]
        first = [Statement("t.t", "insert", {"id": 1, "v": 0})]
        await aws.commit(Commit(declare={"t.t": ["id"]}, explicit=[first] + [update] * 30))
        await aws.others.close()
        return sum(shard.next > 1 for shard in aws.kinesis.stream("s").shards.values())

    assert asyncio.run(main()) == 4

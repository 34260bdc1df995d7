"""`dead replay`, `dead discard`, `tail` and `checkpoint` over the embedded AWS, as commands."""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest

from dsqlcdc.stores.files import FileDeadLetters
from dsqlcdc.stores.s3_dead_letters import S3DeadLetters
from dsqlcdc.stores.sqlite_checkpoints import SqliteCheckpoints
from dsqlcdc.testing.local import LocalAws
from dsqlcdc.testing.records import chunked, full

from .conftest import STREAM, Project

STRICT = "strict_models_of_replay_tests"
NOW = time.time()


class Road(Project):
    """A project over a pipe and a bucket."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str], aws: LocalAws) -> None:
        super().__init__(directory, capsys)
        self.aws = aws
        self.pipe = aws.pipe("orders-cdc", shards=2)
        self.s3 = boto3.client("s3", endpoint_url=aws.endpoint)
        self.s3.create_bucket(Bucket="lake")
        aws.control("throttle", reads=False)
        self.configure()

    def configure(self, sinks: dict[str, Any] | None = None, **blocks: Any) -> None:
        body = {
            "pipeline": "orders-cdc",
            "source": {"stream": "orders-cdc", "poll": "200ms"},
            "tables": {"t.*": {"key": ["id"]}},
            "sinks": sinks or {"lake": {"type": "s3", "bucket": "lake", "prefix": "cdc/", "roll": {"age": "50ms"}}},
            **blocks,
        }
        self.config.write_text(json.dumps(body))

    def put(self, *records: bytes) -> None:
        """Over both shards in turn."""
        for n, record in enumerate(records):
            self.aws.record("orders-cdc", record, shard=f"shardId-{n % 2:012d}")

    def lines(self) -> list[dict[str, Any]]:
        keys = [entry["Key"] for entry in self.s3.list_objects_v2(Bucket="lake", Prefix="cdc/data/").get("Contents", [])]
        bodies = [self.s3.get_object(Bucket="lake", Key=key)["Body"].read() for key in keys]
        return [json.loads(line) for body in bodies for line in gzip.decompress(body).splitlines()]

    def ids(self) -> list[int]:
        return sorted(line["row"]["id"] for line in self.lines())

    def once(self) -> dict[str, int]:
        answer = self.run("run", "CONFIG", "--once", "--json")
        assert answer.code in (0, 3, 4), answer.err
        settled: dict[str, int] = json.loads(answer.out.splitlines()[-1])["sinks"]["lake"]["settled"]
        return {outcome: count for outcome, count in settled.items() if count}

    def names(self, *words: str) -> list[str]:
        return [line["name"] for line in self.run("dead", "list", "CONFIG", "--json", *words).jsons]


@pytest.fixture
def road(tmp_path: Path, capsys: pytest.CaptureFixture[str], local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> Road:
    for name, value in {**local_aws.environ, "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{STRICT}.py").write_text("from dsqlcdc.columns import Row, Text\n\nclass Strict(Row):\n    never: Text\n")
    sys.modules.pop(STRICT, None)
    return Road(tmp_path, capsys, local_aws)


def row(number: int, table: str = "t.x") -> bytes:
    return full("c", table, {"id": number}, int(NOW * 1e9) + number)


def strict(road: Road) -> None:
    road.configure(tables={"t.*": {"key": ["id"], "model": f"{STRICT}:Strict"}})


# replay --------------------------------------------------------------------------------------------------------------------------------


def test_rows_that_no_model_took_are_delivered_once_the_config_is_mended(road: Road) -> None:
    strict(road)
    road.put(*map(row, range(5)), row(0))
    assert road.once() == {"dead": 6}
    answer = road.run("dead", "replay", "CONFIG", "--yes")
    assert answer.code == 4
    assert "6 dead letters: none to any sink; 6 cannot be delivered as they are." in answer.err
    name = road.names()[0]
    shown = road.run("dead", "show", name, "CONFIG", "--json").json
    assert (shown["attempts"], [each["code"] for each in shown["tries"]]) == (2, ["bad_row"])
    assert "replay    20" in road.run("dead", "show", name, "CONFIG").out
    road.configure()
    dry = road.run("dead", "replay", "CONFIG", "--dry-run", "--json")
    assert (dry.code, {tuple(line["would_go_to"]) for line in dry.jsons}) == (0, {("lake",)})
    assert (road.ids(), len(road.names())) == ([], 6)
    answer = road.run("dead", "replay", "CONFIG", "--yes", "--json")
    assert answer.code == 0, answer.err
    assert sorted(line["outcome"] for line in answer.jsons) == ["delivered"] * 5 + ["duplicate"]
    assert road.ids() == [0, 1, 2, 3, 4]
    assert road.names() == []
    assert "replayed" in road.run("dead", "show", f"replayed/{name}", "CONFIG").out
    assert road.run("dead", "replay", "CONFIG", "--yes").err == "No dead letters.\n"


def test_what_the_pipeline_reads_again_after_a_replay_is_a_duplicate(road: Road) -> None:
    """And the other way round: what it delivered after all is a duplicate to the replay."""
    strict(road)
    road.put(row(1), row(2))
    road.once()
    road.configure()
    (first, second) = road.names()
    kept = {name: (road.directory / "dead-letters" / name).read_bytes() for name in (first, second)}
    (road.directory / "dead-letters" / second).unlink()
    assert road.run("dead", "replay", "CONFIG", "--yes").code == 0
    road.put(row(1), row(2))
    assert sorted(road.once().items()) == [("delivered", 1), ("duplicate", 1)]
    assert road.ids() == [1, 2]
    for name, body in kept.items():
        (road.directory / "dead-letters" / name).write_bytes(body)
    answer = road.run("dead", "replay", "CONFIG", "--yes", "--json")
    assert {line["outcome"] for line in answer.jsons} == {"duplicate"}
    assert road.ids() == [1, 2]


def test_an_oversized_rows_letters_are_replayed_as_one_row(road: Road) -> None:
    strict(road)
    records = chunked("c", "t.x", {"id": 9, "text": "x" * 4000}, int(NOW * 1e9), size=1000)
    road.put(*records)
    dead = road.once()
    assert road.names()
    road.configure()
    answer = road.run("dead", "replay", "CONFIG", "--yes", "--json")
    assert answer.code == 0, (dead, answer.err)
    assert {line["outcome"] for line in answer.jsons} == {"delivered"}
    assert [line["row"]["text"] for line in road.lines()] == ["x" * 4000]
    assert road.names() == []


@pytest.mark.parametrize("steps", range(1, 13))
def test_a_replay_of_a_row_that_is_stopped_anywhere_is_taken_up_again(road: Road, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between any two steps of moving the letters of a row's parts: no part is left alone, and the row is in once."""
    records = chunked("c", "t.x", {"id": 9, "text": "x" * 4000}, int(NOW * 1e9), size=1000)
    for n, raw in enumerate(records):
        road.letter(str(n + 1), "incomplete", raw)
    whole, left = FileDeadLetters.close_letter, steps

    async def mortal(self: FileDeadLetters, *given: Any, **more: Any) -> bool:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return await whole(self, *given, **more)

    monkeypatch.setattr(FileDeadLetters, "close_letter", mortal)
    ended = road.run("dead", "replay", "CONFIG", "--yes").code
    assert ended == (130 if steps <= 2 * len(records) else 0)
    monkeypatch.setattr(FileDeadLetters, "close_letter", whole)
    assert road.run("dead", "replay", "CONFIG", "--yes").code == 0
    assert (road.names(), road.ids()) == ([], [9])


def test_letters_with_a_part_missing_stay_and_say_so(road: Road) -> None:
    main, *pieces = chunked("c", "t.x", {"id": 9, "text": "x" * 4000}, int(NOW * 1e9), size=1000)
    for n, raw in enumerate([main, *pieces[1:]]):
        road.letter(str(n + 1), "incomplete", raw)
    answer = road.run("dead", "replay", "CONFIG", "--yes", "--json")
    assert (answer.code, {line["code"] for line in answer.jsons}) == (4, {"incomplete"})
    road.letter("77", "incomplete", pieces[0])
    assert road.run("dead", "replay", "CONFIG", "--yes", "--json").code == 0
    assert road.ids() == [9]


def test_filters_and_rate_and_routes_hold(road: Road) -> None:
    road.configure(
        {
            "lake": {"type": "s3", "bucket": "lake", "prefix": "cdc/", "tables": ["t.*"]},
            "other": {"type": "drop"},
        }
    )
    road.letter("1", raw=row(1))
    road.letter("2", raw=row(2), sink="lake", code="refused")
    road.letter("3", raw=row(3, "u.y"), sink="lake", code="refused")
    road.letter("4", raw=row(4), sink="gone", code="refused")
    answer = road.run("dead", "replay", "CONFIG", "--yes", "--json", "--sink", "-")
    assert [line["sinks"] for line in answer.jsons] == [{"lake": "delivered", "other": "delivered"}]
    began = time.monotonic()
    answer = road.run("dead", "replay", "CONFIG", "--yes", "--json", "--rate", "1")
    assert time.monotonic() - began < 30
    assert sorted((line["outcome"], line["moved"]) for line in answer.jsons) == [
        ("delivered", True),
        ("unrouted", False),
        ("unrouted", False),
    ]
    assert answer.code == 4
    assert road.ids() == [1, 2]


def test_a_sink_that_is_away_leaves_the_letters(road: Road) -> None:
    road.letter("1", raw=row(1))
    road.aws.fault("error", service="s3", operation="PutObject", code="SlowDown", status=503, times=1000)
    answer = road.run("dead", "replay", "CONFIG", "--yes", "--deadline", "100ms")
    assert answer.code == 1
    assert "1 not come to" in answer.err
    assert len(road.names()) == 1


def test_replay_and_discard_ask_and_refuse_where_nobody_answers(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.letter("1", raw=row(1))
    for words in (("dead", "replay", "CONFIG"), ("dead", "discard", "CONFIG", "--reason", "seen")):
        answer = project.run(*words)
        assert (answer.code, "nobody is there to answer" in answer.err) == (2, True)
    assert project.run("dead", "discard", "CONFIG", "--yes").code == 2, "a reason is needed"
    assert len(project.run("dead", "list", "CONFIG", "--json").jsons) == 1


def test_discard_moves_what_the_filters_let_through(project: Project) -> None:
    project.letter("1", code="unreadable")
    project.letter("2", sink="lake", code="refused")
    dry = project.run("dead", "discard", "CONFIG", "--dry-run", "--code", "refused", "--json")
    assert [line["moved"] for line in dry.jsons] == [False]
    answer = project.run("dead", "discard", "CONFIG", "--yes", "--code", "refused", "--reason", "seen by Ann", "--json")
    assert (answer.code, len(answer.jsons)) == (0, 1)
    assert [line["sequence"] for line in project.run("dead", "list", "CONFIG", "--json").jsons] == ["1"]
    (moved,) = (project.directory / "dead-letters" / "discarded").rglob("*.json.gz")
    assert json.loads(gzip.decompress(moved.read_bytes()))["closed"]["reason"] == "seen by Ann"


@pytest.mark.parametrize("words", [["--rate", "fast"], ["--deadline", "soon"], ["--since", "yesterday"]])
def test_options_that_mean_nothing_are_refused(project: Project, words: list[str]) -> None:
    assert project.run("dead", "replay", "CONFIG", *words).code == 2


async def _stored(path: Path, bucket: str, prefix: str) -> None:
    """The letters of a directory, as the daemon would have put them into S3."""
    one, two = FileDeadLetters(path), S3DeadLetters(bucket, prefix)
    async for _, letter in one.letters():
        await two.put(letter)
    await two.close()


def test_letters_in_s3_are_replayed_and_discarded_as_files_are(road: Road) -> None:
    main, *pieces = chunked("c", "t.x", {"id": 9, "text": "x" * 4000}, int(NOW * 1e9), size=1000)
    for n, raw in enumerate([row(1), row(2, "u.y"), b"no record", main, *pieces]):
        road.letter(str(n + 1), raw=raw, code="unreadable" if raw == b"no record" else "bad_row")
    asyncio.run(_stored(road.directory / "dead-letters", "lake", "letters/"))
    road.configure(dead_letters={"type": "s3", "bucket": "lake", "prefix": "letters/"})
    first = road.run("dead", "replay", "CONFIG", "--yes", "--json")
    assert first.code == 4
    assert sorted(line["outcome"] for line in first.jsons) == ["dead", *["delivered"] * (3 + len(pieces))]
    assert road.ids() == [1, 2, 9]
    (name,) = road.names()
    shown = road.run("dead", "show", name, "CONFIG", "--json").json
    assert (shown["attempts"], [each["code"] for each in shown["tries"]]) == (2, ["unreadable"])
    assert road.run("dead", "discard", "CONFIG", "--yes", "--reason", "a stranger's").code == 0
    assert road.names() == []
    keys = [entry["Key"] for entry in road.s3.list_objects_v2(Bucket="lake", Prefix="letters/")["Contents"]]
    assert sorted(key.split("/")[1] for key in keys) == ["discarded", *["replayed"] * (3 + len(pieces))]


# tail ----------------------------------------------------------------------------------------------------------------------------------


def test_tail_prints_changes_and_leaves_no_trace(road: Road) -> None:
    records = chunked("c", "t.x", {"id": 9, "text": "x" * 4000}, int(NOW * 1e9), size=1000)
    road.put(row(1), row(2, "u.y"), b"no record", *records)
    answer = road.run("tail", "CONFIG", "--json")
    assert answer.code == 0, answer.err
    assert sorted(line["row"]["id"] for line in answer.jsons) == [1, 2, 9]
    assert "1 bad record," in answer.err
    assert "unreadable" in answer.err
    before = {path.name for path in road.directory.iterdir()} - {f"{STRICT}.py", "__pycache__"}
    assert before == {"dsqlcdc.yaml"}
    road.once()
    assert [line["id"] for line in sorted(road.lines(), key=lambda line: line["row"]["id"])] == [
        line["id"] for line in sorted(answer.jsons, key=lambda line: line["row"]["id"])
    ]


def test_tail_shows_what_was_asked_for(road: Road) -> None:
    road.put(row(1), row(2, "u.y"), row(3))
    assert "u.y" not in road.run("tail", "CONFIG", "t.*").out
    assert len(road.run("tail", "CONFIG", "-n", "1").out.splitlines()) == 1
    raw = road.run("tail", "CONFIG", "-o", "raw").out.encode().splitlines()
    assert sorted(raw) == sorted([row(1), row(2, "u.y"), row(3)])
    road.aws.advance(600)
    later = datetime.fromtimestamp(time.time() + 60, UTC).isoformat()
    assert road.run("tail", "CONFIG", "--since", later).out == ""
    assert len(road.run("tail", "CONFIG", "--since", "1h", "-n", "3", "--follow").out.splitlines()) == 3


# checkpoint ----------------------------------------------------------------------------------------------------------------------------


def test_a_reset_back_repeats_and_what_is_known_is_a_duplicate(road: Road) -> None:
    road.put(row(1), row(2))
    assert road.once() == {"delivered": 2}
    shown = road.run("checkpoint", "show", "CONFIG", "--json").json["checkpoints"]
    assert len(shown[0]["shards"]) == 2
    dry = road.run("checkpoint", "reset", "CONFIG", "--sink", "lake", "--to", "trim_horizon", "--dry-run", "--json").json
    assert ({shard["effect"] for shard in dry["shards"]}, dry["reset"]) == ({"repeats"}, False)
    assert road.run("checkpoint", "show", "CONFIG", "--json").json["checkpoints"] == shown
    answer = road.run("checkpoint", "reset", "CONFIG", "--sink", "lake", "--to", "trim_horizon", "--yes")
    assert answer.code == 0, answer.err
    assert "counts as duplicate" in answer.err
    assert road.once() == {"duplicate": 2}
    road.run("checkpoint", "reset", "CONFIG", "--sink", "lake", "--to", "trim_horizon", "--yes", "--forget")
    assert road.once() == {"duplicate": 2}, "the lake knows by itself"
    assert road.ids() == [1, 2]


def test_forgetting_repeats_what_the_sink_does_not_know(road: Road) -> None:
    road.configure({"lake": {"type": "drop"}})
    road.put(row(1), row(2))
    assert road.once() == {"delivered": 2}
    road.run("checkpoint", "reset", "CONFIG", "--sink", "lake", "--to", "1h", "--yes")
    assert road.once() == {"duplicate": 2}
    road.run("checkpoint", "reset", "CONFIG", "--sink", "lake", "--to", "1h", "--yes", "--forget")
    assert road.once() == {"delivered": 2}


def test_a_reset_ahead_skips_and_is_a_gap(road: Road) -> None:
    road.put(row(1))
    road.once()
    road.put(row(2))
    road.aws.advance(60)
    answer = road.run("checkpoint", "reset", "CONFIG", "--sink", "lake", "--to", "latest", "--yes", "--json")
    assert answer.code == 0, answer.err
    assert {shard["effect"] for shard in answer.json["shards"]} == {"skips"}
    gaps = road.run("gaps", "CONFIG", "--json")
    assert (gaps.code, {gap["kind"] for gap in gaps.jsons}) == (3, {"reset"})
    road.put(row(3))
    road.once()
    assert road.ids() == [1, 3]


def test_a_checkpoint_in_dynamodb_is_reset_and_what_is_repeated_is_said(road: Road) -> None:
    state = {"type": "dynamodb", "table": "state", "create": True}
    road.configure({"lake": {"type": "drop"}}, state=state, fragments={"type": "memory"})
    road.put(row(1), row(2))
    assert road.once() == {"delivered": 2}
    answer = road.run("checkpoint", "reset", "CONFIG", "--sink", "lake", "--to", "trim_horizon", "--yes")
    assert answer.code == 0, answer.err
    assert "What was delivered is forgotten and delivered again" in answer.err
    assert road.once() == {"delivered": 2}
    road.put(row(3))
    road.aws.advance(60)
    answer = road.run("checkpoint", "reset", "CONFIG", "--sink", "lake", "--to", "latest", "--yes", "--json")
    assert (answer.code, {shard["effect"] for shard in answer.json["shards"]}) == (0, {"skips"})
    assert {gap["kind"] for gap in road.run("gaps", "CONFIG", "--json").jsons} == {"reset"}
    assert road.once() == {}


def test_only_the_shards_that_were_named_are_reset(road: Road) -> None:
    road.put(*map(row, range(20)))
    road.once()
    shard = next(iter(road.run("checkpoint", "show", "CONFIG", "--json").json["checkpoints"][0]["shards"]))
    words = ("checkpoint", "reset", "CONFIG", "--sink", "lake", "--to", "trim_horizon", "--yes", "--json")
    assert [moved["shard"] for moved in road.run(*words, "--shard", shard).json["shards"]] == [shard]
    assert road.run(*words, "--shard", "shardId-9").code == 2
    assert 0 < road.once()["duplicate"] < 20


async def _held(path: Path) -> SqliteCheckpoints:
    from dsqlcdc.core.ports import Name

    store = SqliteCheckpoints(path)
    await store.hold(Name("orders-cdc", "lake", STREAM))
    return store


def test_a_reset_is_refused_where_there_is_nothing_or_somebody_runs(road: Road) -> None:
    words = ("checkpoint", "reset", "CONFIG", "--sink", "lake", "--to", "latest", "--yes")
    assert "E097" in road.run(*words).err
    road.put(row(1))
    road.once()
    before = road.run("checkpoint", "show", "CONFIG", "--json").out
    runner = asyncio.run(_held(road.directory / "state.db"))
    try:
        answer = road.run(*words)
        assert (answer.code, "E201" in answer.err) == (1, True)
        assert road.run(*words, "--dry-run").code == 0
    finally:
        asyncio.run(runner.close())
    assert road.run("checkpoint", "show", "CONFIG", "--json").out == before
    assert road.run(*words[:-1]).code == 2, "it asks"
    road.configure(state={"type": "memory"})
    assert "E096" in road.run(*words).err
    assert road.run("checkpoint", "reset", "CONFIG", "--sink", "lake", "--to", "yesterday").code == 2

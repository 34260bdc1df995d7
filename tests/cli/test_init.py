"""`init`: what it writes has no mistake and says what was answered; what cannot be is refused and nothing is written."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsqlcdc.cli.answers import Answers, Known, findings, flag
from dsqlcdc.cli.app import COMMANDS, invoke
from dsqlcdc.config import lint, load
from dsqlcdc.config.draft import HOSTS, SINKS, compose, next_commands
from dsqlcdc.errors import ConfigError
from dsqlcdc.testing.local import LocalAws

from .conftest import Project

CLUSTER = "abcdefghijklmnopqrstuvwxyz"
FULL = {
    "stream": "orders-cdc",
    "bucket": "lake-1",
    "webhook_url": "https://hooks.example.com/cdc",
    "opensearch_url": "https://search.example.com",
    "tables": ("public.orders=order_id,item_id", "app.*=id"),
}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "HOOK_SECRET"):
        monkeypatch.delenv(name, raising=False)


def subsets() -> list[tuple[str, ...]]:
    return [chosen for size in range(1, len(SINKS) + 1) for chosen in itertools.combinations(SINKS, size)]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("samples", [False, True])
def test_every_combination_of_sinks_host_and_state_has_no_mistake(host: Any, samples: bool, tmp_path: Path) -> None:
    path = tmp_path / "orders.yaml"
    states: Sequence[Any] = (None,) if host == "lambda" else (None, "sqlite", "dynamodb", "memory")
    for number, (sinks, state) in enumerate(itertools.product(subsets(), states)):
        cluster, auth = ("", CLUSTER)[number % 2], (None, "basic")[number % 3 == 0]
        said: dict[str, Any] = {"stream": "orders-cdc"} if samples else FULL
        if host != "daemon" and "s3" not in sinks:
            said = {**said, "store_bucket": "" if samples else "store-1"}
        answers = Answers(sinks=sinks, host=host, state=state, cluster=cluster, opensearch_auth=auth, **said)
        draft = answers.draft(Known(), samples=samples)
        text = compose(draft, "orders.yaml")
        assert [str(f) for f in findings(text, path, whole=True)] == [], text
        assert host != "lambda" or [str(f) for f in findings(text, path, whole=False)] == [], text
        assert bool(draft.samples) <= samples
        for key in draft.samples:
            assert re.search(rf"\b{key.rpartition('.')[2]}:.*\n?.*# a sample: write your own", text), key


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=0, max_size=12)
ANYTHING = st.fixed_dictionaries(
    {},
    optional={
        "stream": WORDS | st.sampled_from(["orders", "arn:aws:kinesis:eu-west-1:123456789012:stream/a.b"]),
        "region": WORDS | st.sampled_from(["eu-west-1"]),
        "sinks": st.lists(st.sampled_from([*SINKS, "lake=s3", "s-3=webhook", "nope", ": x=drop", "no=stdout"]), max_size=3).map(tuple),
        "tables": st.lists(st.builds("{}={}".format, WORDS, WORDS) | st.just("public.a=id,no"), max_size=3).map(tuple),
        "host": st.sampled_from(list(HOSTS)),
        "cluster": st.sampled_from([CLUSTER, "no", "x\n y"]),
        "bucket": WORDS | st.sampled_from(["lake-1", "null", "1e3", "- x"]),
        "prefix": WORDS,
        "webhook_url": WORDS | st.sampled_from(["https://h.example/x?a=b#c", "http://127.0.0.1:8/"]),
        "opensearch_url": WORDS | st.sampled_from(["https://s.example", "http://127.0.0.1:9200"]),
        "opensearch_auth": st.sampled_from(["sign", "basic", "none"]),
        "state": st.sampled_from(["sqlite", "dynamodb", "memory"]),
        "state_table": WORDS | st.just("cdc"),
        "store_bucket": WORDS | st.just("stores"),
        "start": WORDS | st.sampled_from(["latest", "2026-11-01T00:00:00Z"]),
        "pipeline": WORDS | st.sampled_from(["p", "no", "1"]),
        "listen": WORDS | st.sampled_from(["off", "[::1]:80"]),
    },
)


@given(said=ANYTHING)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_says_what_was_answered_and_what_cannot_be_is_refused(said: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "any.yaml"
    answers = Answers(**said)
    try:
        draft = answers.draft(Known(), samples=True)
        text = compose(draft, str(path))
        answers.check(draft, text, path)
    except ConfigError as error:
        refused = {finding.run for finding in error.findings}
    else:
        refused = set[str]()
    if refused:
        assert refused == {"dsqlcdc init --help"}
        return
    told = yaml.safe_load(text)
    path.write_text(text, encoding="utf-8")
    if "${" not in text.replace("${HOOK_SECRET:", "").replace("${OPENSEARCH_", "").partition("# Names")[2]:
        assert lint(path) == []
        assert load(path).pipeline == draft.pipeline
    assert told["source"]["stream"] == draft.stream
    assert {name: sink["type"] for name, sink in told["sinks"].items()} == dict(draft.sinks)
    assert {pattern: tuple(table["key"]) for pattern, table in told.get("tables", {}).items()} == dict(draft.tables)
    lakes = [sink for sink in told["sinks"].values() if sink["type"] == "s3"]
    assert [(lake["bucket"], lake["prefix"]) for lake in lakes] == [(draft.bucket, draft.prefix)] * len(lakes)


def test_that_law_sees_a_word_that_becomes_more_than_a_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Control: without quoting, a bucket's name is YAML."""
    monkeypatch.setattr("dsqlcdc.config.draft._scalar", str)
    draft = Answers(bucket="a\n    raw: true", **{k: v for k, v in FULL.items() if k != "bucket"}).draft(Known())
    assert yaml.safe_load(compose(draft, "x"))["sinks"]["lake"]["raw"] is True


def test_flags_write_the_file_and_the_next_command_finds_no_mistake(project: Project) -> None:
    told = project.run(
        *shlex.split("init orders.yaml --stream orders --region eu-west-1 --sink s3 --bucket lake --table public.orders=order_id,item_id"),
        *("--cluster", CLUSTER),
    )
    assert (told.code, told.out) == (0, "")
    assert told.err.startswith("Wrote orders.yaml.\nNext:\n  dsqlcdc config lint orders.yaml ")
    assert "sample" not in told.err
    loaded = load(Path("orders.yaml"), {})
    assert (loaded.aws.region, loaded.tables["public.orders"].key) == ("eu-west-1", ("order_id", "item_id"))
    assert loaded.stream is not None
    assert project.run("config", "lint", "orders.yaml").code == 0
    assert project.run("config", "show", "orders.yaml").code == 0


def test_every_line_that_is_no_comment_has_one_near_it(project: Project) -> None:
    assert (
        project.run("init", "--yes", "--sink", "s3", "--sink", "webhook", "--sink", "opensearch", "--cluster", CLUSTER, "w.yaml").code == 0
    )
    blocks = Path("w.yaml").read_text(encoding="utf-8").rstrip("\n").split("\n\n")
    assert all(block.startswith("# ") for block in blocks)
    assert len(blocks) == 11


@pytest.mark.parametrize("host", HOSTS)
def test_the_next_commands_are_commands(host: Any) -> None:
    draft = Answers(host=host, cluster=CLUSTER, store_bucket="b", **FULL).draft(Known())
    for command, does in next_commands(draft, "my file.yaml"):
        words = shlex.split(command)
        assert words[0] == "make" or (words[0] == "dsqlcdc" and words[1] in COMMANDS)
        assert any("my file.yaml" in word for word in words)
        assert does


def test_json_names_samples_variables_and_the_next_commands(project: Project) -> None:
    told = project.run("init", "--yes", "--sink", "webhook", "--webhook-url", "${HOOK_URL_OF_NOBODY}", "--json", "w.yaml").json
    assert told["path"] == "w.yaml"
    assert (told["pipeline"], told["samples"]) == ("orders-cdc", ["source.stream"])
    assert told["variables"] == ["HOOK_URL_OF_NOBODY"]
    assert told["next"][0] == "dsqlcdc config lint w.yaml"


def test_a_secret_is_drawn_and_its_file_is_its_owners_alone(project: Project) -> None:
    words = ("init", "--yes", "--sink", "webhook", "--webhook-url", "https://h.example/x")
    assert project.run(*words, "a.yaml").code == project.run(*words, "b.yaml").code == project.run("init", "--yes", "c.yaml").code == 0
    secrets = [re.findall(r"HOOK_SECRET:(whsec_[^}]+)}", Path(name).read_text(encoding="utf-8")) for name in ("a.yaml", "b.yaml")]
    assert len({secret for (secret,) in secrets}) == 2
    assert [stat.S_IMODE(Path(name).stat().st_mode) & 0o077 for name in ("a.yaml", "b.yaml")] == [0, 0]
    assert stat.S_IMODE(Path("c.yaml").stat().st_mode) & 0o044
    assert secrets[0][0] not in project.run("config", "show", "a.yaml").out


def test_a_file_that_is_there_stays_unless_force_is_said(project: Project) -> None:
    Path("mine.yaml").write_text("precious", encoding="utf-8")
    told = project.run("init", "mine.yaml", "--yes")
    assert (told.code, Path("mine.yaml").read_text(encoding="utf-8")) == (2, "precious")
    assert told.err == "DSQLCDC-E094 the file is there already, and stays as it is, mine.yaml. Run: dsqlcdc init mine.yaml --force\n"
    assert project.run("init", "mine.yaml", "--yes", "--force").code == 0
    assert load(Path("mine.yaml")).pipeline == "orders-cdc"
    assert sorted(path.name for path in Path().iterdir()) == ["dsqlcdc.yaml", "mine.yaml"]  # nothing temporary is left


def test_a_link_is_written_through(project: Project) -> None:
    Path("real.yaml").write_text("old", encoding="utf-8")
    Path("link.yaml").symlink_to("real.yaml")
    assert project.run("init", "link.yaml", "--yes", "--force").code == 0
    assert Path("link.yaml").is_symlink()
    assert load(Path("real.yaml")).pipeline == "orders-cdc"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("init x.yaml", "not all is known, and nobody is there to ask: say --stream, --bucket; or --yes for samples"),
        (
            "init x.yaml --yes --sink s33",
            "there is no such sink here, 's33', --sink: choices: s3, opensearch, webhook, stdout, drop. Did you mean 's3'?",
        ),
        ("init x.yaml --yes --sink s3 --sink a=s3", "two sinks of type s3, --sink"),
        ("init x.yaml --yes --sink a=s3 --sink a=drop", "two sinks are called 'a', --sink"),
        (
            "init x.yaml --yes --table orders",
            "not a table and its key, 'orders', --table: write for example public.orders=order_id,item_id",
        ),
        ("init x.yaml --yes --table orders=id", "a wrong name 'orders', --table: a pattern matches schema.table"),
        ("init x.yaml --yes --stream 'a b'", "a wrong value for 'stream', --stream: a Kinesis data stream is expected"),
        ("init x.yaml --yes --cluster abc", "a wrong value for 'cluster', --cluster: a cluster's identifier is 26"),
        ("init x.yaml --yes --sink webhook --webhook-url ftp://x", "--webhook-url"),
        ("init x.yaml --yes --state memory --start latest", "start latest with a state that is forgotten, --start"),
        ("init x.yaml --yes --host lambda --state sqlite", "a function keeps no state of ours, --state"),
        ("init x.yaml --yes --http nowhere", "a wrong value for 'listen', --http"),
        ("init nowhere/x.yaml --yes", "the file cannot be written, nowhere/x.yaml: there is no directory 'nowhere'. Run: mkdir -p nowhere"),
        ("init . --yes", "this is a directory, ."),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(project: Project, words: str, said: str) -> None:
    told = project.run(*shlex.split(words))
    assert (told.code, told.out) == (2, "")
    assert said in told.err
    assert "Run: " in told.err
    assert not Path("x.yaml").exists()


def test_every_option_that_can_be_wrong_has_its_flag(project: Project) -> None:
    """What a finding is about is said by the flag, which the help has."""
    help = project.run("init", "--help").out
    sinks = {name: kind for kind, name in SINKS.items()}
    places = [
        "pipeline",
        "aws.region",
        "source.stream",
        "source.start",
        "tables.x.key",
        "state",
        "stream.cluster",
        "http.listen",
        "fragments.bucket",
    ]
    for place in [*places, "sinks.lake.bucket", "sinks.hook.url", "sinks.search.url", "sinks.out"]:
        assert flag(place, sinks) in help


# at a terminal -----------------------------------------------------------------------------------------------------------------------


def talk(answers: Sequence[str], *words: str, environ: dict[str, str] | None = None) -> tuple[int, str, str]:
    """The command at a pseudo terminal that is given these lines: its exit code, what was shown, and its stdout."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from dsqlcdc.cli import main; main()", "init", *words]
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "dumb", **(environ or {})}
    with subprocess.Popen(command, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, text=True, env=environment) as process:
        os.close(theirs)
        os.write(ours, "".join(f"{answer}\n" for answer in answers).encode() + b"\x04")  # and the end of the input: no question waits
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:
            pass  # the terminal's other end is closed: how Linux says that it is over
        os.close(ours)
        out = process.stdout.read() if process.stdout is not None else ""
        return process.wait(30), shown.decode().replace("\r\n", "\n"), out


def test_questions_make_a_config(tmp_path: Path) -> None:
    answers = [
        "orders",
        "eu-west-1",
        "s3 webhook",
        "daemon",
        "lake-1",
        "https://h.example/x",
        "public.orders=order_id,item_id, app.*=id",
        CLUSTER,
    ]
    code, shown, out = talk(answers, "asked.yaml")
    assert (code, out) == (0, ""), shown
    loaded = load(tmp_path / "asked.yaml", {})
    assert (loaded.source.stream, loaded.aws.region, list(loaded.sinks)) == ("orders", "eu-west-1", ["lake", "hook"])
    assert {pattern: table.key for pattern, table in loaded.tables.items()} == {"public.orders": ("order_id", "item_id"), "app.*": ("id",)}
    assert loaded.stream is not None
    assert "Wrote asked.yaml." in shown
    assert "sample" not in shown


def test_an_answer_that_cannot_be_is_asked_for_again_with_the_reason(tmp_path: Path) -> None:
    answers = ["no stream", "orders", "mars", "", "s5", "", "nowhere", "", "", "lake-1", "orders=id", "", "abc", ""]
    code, shown, _ = talk(answers, "asked.yaml")
    assert code == 0, shown
    for said in (
        "a Kinesis data stream is expected",
        "a Region such as us-east-1",
        "no such sink here, 's5'",
        "choices: daemon, container, lambda",
    ):
        assert said in shown
    assert "a pattern matches schema.table" in shown
    assert "26 lower-case letters" in shown
    assert lint(tmp_path / "asked.yaml", {}) == []


def test_flags_and_questions_complete_each_other(tmp_path: Path) -> None:
    words = ["--stream", "a", "--region", "us-east-1", "--sink", "opensearch", "--host", "container", "--cluster", CLUSTER, "--json"]
    code, shown, out = talk(["https://s.example", "", "public.*=id", "stores"], "asked.yaml", *words)
    assert code == 0, shown
    assert json.loads(out)["samples"] == []
    assert [question in shown for question in ("OpenSearch cluster", "key columns", "dead letters and pieces", "Region", "Sinks")] == [
        *([True] * 3),
        *([False] * 2),
    ]
    loaded = load(tmp_path / "asked.yaml", {})
    assert (loaded.state.type, loaded.fragments.type, loaded.sinks["search"].type) == ("dynamodb", "s3", "opensearch")


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 2, "precious"), ("y", 0, "pipeline: orders")])
def test_before_a_file_is_overwritten_it_is_asked(answer: str, code: int, left: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("precious", encoding="utf-8")
    given = ["--stream", "orders", "--region", "us-east-1", "--sink", "drop", "--host", "daemon", "--table", "a.b=id", "--cluster", CLUSTER]
    assert talk([answer], "mine.yaml", *given)[0] == code
    assert left in path.read_text(encoding="utf-8")


def test_ctrl_c_at_a_question_writes_nothing(tmp_path: Path) -> None:
    code, shown, _ = talk(["orders", "\x03"], "asked.yaml")
    assert (code, "Traceback" in shown) == (130, False)
    assert list(tmp_path.iterdir()) == []


# AWS, only when asked ----------------------------------------------------------------------------------------------------------------


def test_aws_is_asked_only_when_that_is_said_and_what_is_alone_is_taken(
    local_aws: LocalAws, project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in local_aws.environ.items():
        monkeypatch.setenv(name, value)
    cluster = local_aws.pipe("orders-cdc-7", shards=1).cluster
    words = ("init", "found.yaml", "--sink", "drop", "--force")
    assert project.run(*words).code == 2  # nothing was asked: the stream is not known
    told = project.run(*words, "--ask-aws")
    assert told.code == 0, told.err
    loaded = load(tmp_path / "found.yaml")
    assert (loaded.source.stream, loaded.stream and loaded.stream.cluster) == ("orders-cdc-7", cluster)
    local_aws.pipe("users-cdc", shards=1)
    told = project.run(*words, "--ask-aws")
    assert told.code == 2
    assert "the streams there are: orders-cdc-7, users-cdc" in told.err
    _, shown, _ = talk(["users-cdc", "", "", cluster], *words[1:], "--ask-aws", "--region", "us-east-1", environ=dict(local_aws.environ))
    assert "Kinesis streams: orders-cdc-7, users-cdc" in shown
    assert load(tmp_path / "found.yaml").source.stream == "users-cdc"
    local_aws.control("deny", action="kinesis:ListStreams")
    told = project.run(*words, "--ask-aws")
    assert (told.code, "DSQLCDC-E102" in told.err, "kinesis:ListStreams" in told.err) == (1, True, True)
    assert invoke(["init", "--help"]) == 0

"""README and reference say what the code says: config, commands, outcomes, metrics, dead letters, the JSON form."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

import dsqlcdc.columns
from dsqlcdc.cli.app import COMMANDS
from dsqlcdc.cli.stream import SUBCOMMANDS
from dsqlcdc.columns import Row, decode, row_json
from dsqlcdc.config import lint, schema
from dsqlcdc.config.read import load
from dsqlcdc.contract import Change, Outcome
from dsqlcdc.core.records import Record
from dsqlcdc.core.tables import Rule, Tables
from dsqlcdc.lines import line
from dsqlcdc.prometheus import METRICS
from dsqlcdc.streams.causes import CAUSES
from dsqlcdc.streams.deeds import LIMITS
from dsqlcdc.testing.records import full

from .reading import README, REFERENCE, ROOT, blocks, named, rows, sections

DOCUMENTS = [
    README,
    REFERENCE,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "examples" / "README.md",
    ROOT / "deploy" / "README.md",
]
NAMES = {"AWS_REGION": "us-east-1", "STREAM": "orders-cdc", "BUCKET": "my-lake", "PREFIX": "cdc/", "CLUSTER": "a" * 26}
"""What the quick start exports and its config asks for."""
LINES_AT_MOST = 400


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-P", "-m", "dsqlcdc", *arguments], capture_output=True, text=True, timeout=60, check=False, env=environment
    )


# the whole ---------------------------------------------------------------------------------------------------------------------------


def test_the_readme_can_be_read_in_one_sitting() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= LINES_AT_MOST


def anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, place = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), target
        if place:
            assert place in {anchor(heading) for heading in sections(found)}, target


def test_every_file_named_in_the_readme_exists() -> None:
    text = README.read_text(encoding="utf-8")
    paths = re.findall(r"(?<![\w./-])((?:dsqlcdc|deploy|examples|docs|tests)/[\w./-]+\.\w+)", text)
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / path).exists()] == []


# the config --------------------------------------------------------------------------------------------------------------------------


def test_the_readmes_config_is_the_examples_and_has_no_mistake(tmp_path: Path) -> None:
    config, in_aws = [block.text for block in blocks(README, "yaml")]
    example = (ROOT / "examples" / "aws.yaml").read_text(encoding="utf-8")
    assert config == re.sub(r"\A(#.*\n)+", "", example)
    path = tmp_path / "orders.yaml"
    path.write_text(config, encoding="utf-8")
    assert lint(path, NAMES) == []
    assert load(path, NAMES).sinks["lake"].options["bucket"] == "my-lake"
    stores = ("state:", "dead_letters:", "fragments:")
    path.write_text("".join(line for line in config.splitlines(True) if not line.startswith(stores)) + in_aws, encoding="utf-8")
    assert lint(path, NAMES) == []
    assert load(path, NAMES).state.type == "dynamodb"
    path.write_text(config.replace("trim_horizon", "trim-horizon"), encoding="utf-8")
    assert [finding.code for finding in lint(path, NAMES)] == ["E012"]  # the control: lint does look


def config_keys() -> dict[str, object]:
    """Every key of the published schema in dotted form, with its default; ... where it has none."""
    made = schema()
    found: dict[str, object] = {}
    _walk(made, "", made["$defs"], found)
    return found


def _walk(node: dict[str, Any], at: str, defs: dict[str, Any], found: dict[str, object]) -> None:
    node = _resolved(node, defs)
    for name, value in node.get("properties", {}).items():
        key = f"{at}.{name}" if at else name
        inner = _resolved(value, defs)
        if name == "type" and "const" in inner:
            found[_without_kind(at) + ".type"] = (
                ... if at.startswith("sinks") else next(iter(defs["defaults"][at.partition("<")[0]].values()))
            )
            continue
        before = set(found)
        _walk(value, key, defs | _defaults(name, value), found)
        if set(found) == before:
            found[key] = value.get("default", inner.get("default", ...))
    for branch in (*node.get("oneOf", ()), *node.get("anyOf", ())):
        kind = _kind(_resolved(branch, defs)) if "oneOf" in node else ""
        _walk(branch, f"{at}<{kind}>" if kind else at, defs, found)
    for inside, name in (
        (node.get("additionalProperties"), "NAME"),
        *((each, "PATTERN") for each in node.get("patternProperties", {}).values()),
    ):
        if isinstance(inside, dict):
            _walk(inside, f"{at}.{name}", defs, found)


def _defaults(name: str, value: dict[str, Any]) -> dict[str, Any]:
    default = value.get("default")
    return {"defaults": {name: default}} if isinstance(default, dict) else {}


def _kind(branch: dict[str, Any]) -> str:
    return str(branch.get("properties", {}).get("type", {}).get("const", ""))


def _without_kind(at: str) -> str:
    return at.partition("<")[0]


def _resolved(node: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    reference = node.get("$ref", "")
    if not reference:
        return node
    found: dict[str, Any] = defs.get(reference.removeprefix("#/$defs/"), {})
    return {**found, **{key: value for key, value in node.items() if key != "$ref"}}


def test_the_table_of_config_keys_is_the_schema() -> None:
    common = ("tables", "ops", "order", "hold_back", "start", "mask", "exclude", "mask_key")
    wanted: dict[str, str] = {}
    for key, default in config_keys().items():
        if re.fullmatch(rf"sinks\.NAME<\w+>\.({'|'.join(common)})", key):
            key = re.sub(r"<\w+>", "", key)  # what every sink takes is said once
        wanted[key] = _written(default)
    said = {named(key)[0]: default for key, default, _ in rows(REFERENCE, "Config keys")}
    assert said == wanted


def _written(default: object) -> str:
    if default is ...:
        return "–"
    if default is None:
        return "null"
    if isinstance(default, bool):
        return str(default).lower()
    return '""' if default == "" else str(default)


# what is counted -----------------------------------------------------------------------------------------------------------------------


def test_the_table_of_outcomes_is_the_enumeration() -> None:
    assert {named(word)[0] for word, _ in rows(README, "Outcomes")} == {outcome.value for outcome in Outcome}


def test_the_table_of_metrics_is_the_code_with_the_alerts_that_ask_for_each() -> None:
    said = [(named(name)[0], kind, labels, meaning) for name, kind, labels, meaning, _ in rows(REFERENCE, "Metrics")]
    assert said == [(metric.name, metric.type, ", ".join(metric.labels) or "–", metric.meaning) for metric in METRICS]
    (group,) = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for name, *_, alerts in rows(REFERENCE, "Metrics"):
        asking = [rule["alert"] for rule in group["rules"] if re.search(rf"\b{named(name)[0]}\b", rule["expr"])]
        assert named(alerts) == asking, "run: python deploy/prometheus/table.py"


def test_the_table_of_reasons_is_the_data_of_the_remedies() -> None:
    said = [(named(code)[0], *others) for code, *others in rows(REFERENCE, "Health of the CDC stream")]
    causes = [(c.code, c.explanation, c.mends, c.applies or "–", f"{c.within / 60:.0f} min") for c in CAUSES.values()]
    limits = [(kind, str(limit.a_day), f"{limit.apart / 60:.0f} min") for kind, limit in LIMITS.items()]
    assert said == [*causes, *limits]


def test_every_metric_named_in_the_readme_exists() -> None:
    said = set(re.findall(r"dsqlcdc_[a-z_]+(?=`)", README.read_text(encoding="utf-8")))
    assert said
    assert said <= {metric.name for metric in METRICS}


def dead_codes() -> set[str]:
    """Every short word that a dead letter's reason may be, from the places where they are made."""
    found: set[str] = set()
    paths = [*(ROOT / "dsqlcdc" / "core").glob("*.py"), *(ROOT / "sinks").glob("*/*.py")]
    places = {"Unreadable": 1, "Bad": 0, "Setback": 2}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name == "dead_code":
                found.update(each.value for each in ast.walk(node) if isinstance(each, ast.Constant))
            if not isinstance(node, ast.Call) or "Verdict.RETRY" in map(ast.unparse, node.args):
                continue
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in places:
                given = [*node.args[places[name] : places[name] + 1], *(word.value for word in node.keywords if word.arg == "code")]
                found.update(each.value for arg in given for each in ast.walk(arg) if isinstance(each, ast.Constant) and each.value)
    return {word for word in found if isinstance(word, str) and word} | {"unreadable"}  # the default of Unreadable


def test_the_table_of_dead_letters_is_the_code() -> None:
    assert {named(word)[0] for word, _ in rows(REFERENCE, "Dead letters")} == dead_codes()


# commands ------------------------------------------------------------------------------------------------------------------------------


def commands() -> list[str]:
    return [named(cell)[0] for cell, _ in rows(README, "Commands") if cell.startswith("`")]


@pytest.mark.parametrize("shown", commands())
def test_every_command_takes_help_and_the_flags_that_the_readme_gives_it(shown: str) -> None:
    words = [word for word in shown.split() if word.islower()]
    done = run(*words, "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    (does,) = [does for cell, does in rows(README, "Commands") if named(cell)[:1] == [shown]]
    flags = set(re.findall(r"--[a-z-]+", does)) | {"--json"}
    assert [flag for flag in sorted(flags) if flag not in done.stdout] == []
    assert ("CONFIG" in shown) == ("CONFIG" in done.stdout.partition("Options")[0].partition("\n")[0])


def test_the_table_of_commands_is_complete() -> None:
    assert {line.split()[0] for line in commands()} == set(COMMANDS)
    nested = {tuple(line.split()[:2]) for line in commands() if line.split()[0] in ("config", "dead", "checkpoint", "stream")}
    wanted = {
        "config": ("lint", "show", "schema"),
        "dead": ("list", "show", "replay", "discard"),
        "checkpoint": ("show", "reset"),
        "stream": tuple(SUBCOMMANDS),
    }
    assert nested == {(group, command) for group, commands in wanted.items() for command in commands}


def test_every_command_line_in_prose_names_a_command() -> None:
    text = README.read_text(encoding="utf-8") + REFERENCE.read_text(encoding="utf-8")
    said = {match[1] for match in re.finditer(r"`dsqlcdc ([a-z]+)", text)}
    assert {"run", "gaps", "dead", "local"} <= said <= set(COMMANDS)


def remedies() -> set[str]:
    """The commands that errors tell people to run."""
    paths = [path for folder in ("dsqlcdc", "sinks") for path in (ROOT / folder).rglob("*.py")]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return {match[1] for text in texts for match in re.finditer(r"\brun ?= ?f?[\"'](?:.*, then )?dsqlcdc ([a-z]+(?: [a-z]+)?)", text)}


def test_every_command_that_an_error_tells_people_to_run_exists() -> None:
    found = remedies()
    assert {"dead list", "config lint", "run"} <= found
    nested = {
        "config lint",
        "config show",
        "config schema",
        "dead list",
        "dead show",
        "dead replay",
        "dead discard",
        "gaps ack",
        "checkpoint show",
        "checkpoint reset",
        *(f"stream {name}" for name in SUBCOMMANDS),
        "opensearch rebuild",
        *(f"audit {name}" for name in ("compact", "ddl", "show", "transactions", "verify")),
    }
    assert found <= nested | COMMANDS.keys()


def test_exit_codes_are_those_of_the_help() -> None:
    said = [code for code, _ in rows(README, "Commands") if code.isdigit()]
    help = re.sub(r"\s+", " ", run("run", "--help").stdout)
    assert re.findall(r"(?<=[:;.] )\d(?= |\.)", help.partition("first that holds")[2])[:5] == said == ["2", "1", "3", "4", "0"]


def test_the_schema_is_json() -> None:
    done = run("config", "schema")
    assert done.returncode == 0
    assert msgspec.json.decode(done.stdout) == schema()


def test_the_demo_shown_is_what_the_demo_prints() -> None:
    """The words, not the numbers: those are drawn from a clock."""
    (shown,) = [block.text for block in blocks(README, "text")]
    sources = "".join((ROOT / "dsqlcdc" / name).read_text(encoding="utf-8") for name in ("hosts/demo.py", "cli/demo.py"))
    for words in (
        "no account, nothing leaves this machine)",
        ", one row of 12 MiB in pieces",
        "split a shard",
        "every change exactly once, value for value",
        "repeats in the table without a key, which is at least once by nature",
        "next, a config of your own: ",
        " config lint orders.yaml",
    ):
        assert words in shown
        assert words in sources
    for total in re.findall(r"^lake: read .*$", shown, re.MULTILINE):
        read, *parts = map(int, re.findall(r"\d+", total))
        assert read == sum(parts)


# rows ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sent", "written"), [(*named(row[0]), *named(row[2]), *named(row[3])) for row in rows(REFERENCE, "JSON form")]
)
def test_the_json_form_is_what_the_table_says(name: str, sent: str, written: str) -> None:
    namespace = {"__annotations__": {"value": getattr(dsqlcdc.columns, name)}, "__module__": __name__}
    model: Any = type("Model", (Row,), namespace)
    row = decode(model, msgspec.Raw(f'{{"value":{sent}}}'.encode()))
    assert row_json(row) == f'{{"value":{written}}}'.encode()


def test_the_table_of_the_json_form_has_every_column_type() -> None:
    others = {"Column", "Row", "RowError", "check_model", "decode", "load_model", "row_json", "wire"}
    assert {named(row[0])[0] for row in rows(REFERENCE, "JSON form")} == set(dsqlcdc.columns.__all__) - others


def test_the_line_shown_has_the_fields_of_a_line() -> None:
    (shown,) = [msgspec.json.decode(block.text) for block in blocks(README, "json")]
    record = Record("1", full("u", "public.orders", shown["row"], shown["version"]), 1.0)
    change = Tables({"public.orders": Rule(key=("order_id", "item_id"))}).read("shard", record)
    assert isinstance(change, Change)
    written = msgspec.json.decode(line(change))
    assert list(shown) == list(written)
    for name in ("op", "schema", "table", "key", "row", "before", "version", "committed_at"):
        assert shown[name] == written[name]


def test_the_readmes_python_runs() -> None:
    (text,) = [block.text for block in blocks(README, "python")]
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(text, "README.md", "exec", dont_inherit=True), names)
    row = decode(names["Order"], msgspec.Raw(b'{"order_id":1,"price":"9.50","placed_at":0}'))
    assert row_json(row) == b'{"order_id":1,"price":"9.50","note":null,"placed_at":"1970-01-01T00:00:00.000000Z"}'

"""The pages of docs/ do what they say: their commands run, their configs have no mistake, their command lines can be read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
import yaml
from typer.core import TyperGroup
from typer.exceptions import TyperException

from dsqlcdc.cli.app import app
from dsqlcdc.config import lint
from dsqlcdc.contract import Change, Context, Op, Sink, Table
from dsqlcdc.testing.local import LocalAws

from .reading import ROOT, Code, blocks
from .walking import Clone, script_of

DOCS = ROOT / "docs"
OURS = [
    path for path in sorted(DOCS.rglob("*.md")) if path.name != "reference.md" and path.parent.name != "runbook" and path.name != "lake.md"
]
"""The reference and the page of the lake have tests of their own; the runbook's commands are for a machine that is in trouble."""
EVERY = [*sorted(DOCS.rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
BASE: dict[str, Any] = {"pipeline": "p", "source": {"stream": "orders-cdc"}, "tables": {"public.*": {"key": ["id"]}}}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


# what is run -------------------------------------------------------------------------------------------------------------------------


RUN = [path for path in OURS if "dsqlcdc init " in "".join(block.text for block in blocks(path, "bash"))]
"""Pages that begin with a config of their own; those that begin with the reader's are read only."""


@pytest.mark.slow
@pytest.mark.parametrize("path", RUN, ids=name)
def test_the_commands_of_a_page_run_one_after_another(path: Path, local_aws: LocalAws, tmp_path: Path) -> None:
    """Blocks of `bash`; those of `sh` are for a terminal, or for AWS."""
    Clone(tmp_path, local_aws.environ).walk(script_of(block.text for block in blocks(path, "bash")))
    if path.name == "start.md":
        assert (tmp_path / "changes.jsonl").read_text(encoding="utf-8").count('"table":"orders"') > 5


def test_the_pages_that_run_are_seen() -> None:
    """Control."""
    assert {"start.md", "gaps.md", "migration.md", "deploying.md"} <= {path.name for path in RUN}


# command lines -----------------------------------------------------------------------------------------------------------------------


def lines_of(path: Path) -> list[str]:
    """The lines of a page's shell blocks that call dsqlcdc, without what the shell makes of them."""
    texts = [block.text for block in blocks(path) if block.language in ("bash", "sh")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(texts))
    calls = re.findall(r"^(?:[A-Z_]+=\S+ )*(dsqlcdc .*)$", joined, re.MULTILINE)
    return [re.sub(r"\s+(?:[>|]|#\s|&&).*$", "", call) for call in calls]


def unreadable(line: str) -> str:
    """What the command line says of a call; "" where it can be read: every command, option and choice is one, and no argument is missing."""
    words = shlex.split(line)[1:]
    command: Any = typer.main.get_command(app)
    context: Any = None
    try:
        while True:
            context = command.make_context(command.name or "dsqlcdc", list(words), parent=context)
            if not isinstance(command, TyperGroup):
                return ""
            _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
    except typer.Exit:
        return ""  # --help, --version, what completion prints
    except TyperException as error:
        return error.format_message()


@pytest.mark.parametrize("path", [path for path in EVERY if lines_of(path)], ids=name)
def test_every_command_line_of_a_page_can_be_read(path: Path) -> None:
    skipped = ("--install-completion", "--show-completion")  # options of the shell's own making
    wrong = {line: unreadable(line) for line in lines_of(path) if not line.endswith(skipped)}
    assert {line: why for line, why in wrong.items() if why} == {}


@pytest.mark.parametrize(
    "line", ["dsqlcdc sttus x", "dsqlcdc run x --onse", "dsqlcdc status", "dsqlcdc dead lst x", "dsqlcdc run x --log xml"]
)
def test_a_command_line_that_cannot_be_read_is_found(line: str) -> None:
    """Control."""
    assert unreadable(line)


# configs -----------------------------------------------------------------------------------------------------------------------------


CONFIGS = [(path, block) for path in OURS for block in blocks(path) if block.language == "yaml"]


@pytest.mark.parametrize(("path", "block"), CONFIGS, ids=[f"{name(path)}-{number}" for number, (path, _) in enumerate(CONFIGS)])
def test_every_config_of_a_page_has_no_mistake(path: Path, block: Code, tmp_path: Path) -> None:
    """A page shows the blocks that it is about; the others are the smallest there are."""
    whole = tmp_path / "page.yaml"
    whole.write_text(yaml.safe_dump({**BASE, **yaml.safe_load(block.text)}), encoding="utf-8")
    assert [str(finding) for finding in lint(whole, {})] == []


def test_a_config_with_a_mistake_is_found(tmp_path: Path) -> None:
    """Control."""
    whole = tmp_path / "page.yaml"
    whole.write_text(yaml.safe_dump({**BASE, "sinks": {"a": {"type": "s3", "buket": "x"}}}), encoding="utf-8")
    assert lint(whole, {})


# python ------------------------------------------------------------------------------------------------------------------------------


async def test_the_sink_of_the_page_on_sinks_of_ones_own_does_what_it_says() -> None:
    (block,) = blocks(DOCS / "sinks" / "custom.md", "python")
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(block.text, "custom.md", "exec", dont_inherit=True), names)

    def change(table: str) -> Change:
        key = msgspec.Raw(b'{"id":1}')
        return Change(b"\x01" * 16, Op.INSERT, Table("c", "public", table, ("id",)), key, 1, "t", key, None, b"{}", "s", "1", 1.0)

    sink: Sink = names["Audit"].from_options({}, Context("p", "s", "."))
    assert [setback.code for setback in await sink.write([change("users")])] == ["no_order"]
    assert list(await sink.write([change("orders")])) == []
    assert [setback.verdict for setback in await sink.write([change("orders")])] == ["duplicate"]

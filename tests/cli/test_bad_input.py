"""Every command, given nothing, a file that is not there, one that is no config, or an option it does not know: one error that teaches."""

from __future__ import annotations

import json
from typing import Any

import pytest
import typer
from typer.core import TyperArgument, TyperGroup

from dsqlcdc.cli.app import app

from .conftest import Project


def commands() -> list[tuple[tuple[str, ...], list[str]]]:
    """Every command with a CONFIG: its words, and the names of its arguments."""
    found: list[tuple[tuple[str, ...], list[str]]] = []

    def walk(command: Any, words: tuple[str, ...]) -> None:
        if isinstance(command, TyperGroup):
            context = typer.Context(command, info_name=" ".join(words))
            for name in command.list_commands(context):
                walk(command.get_command(context, name), (*words, name))
            return
        arguments = [param.metavar or (param.name or "").upper() for param in command.params if isinstance(param, TyperArgument)]
        if "CONFIG" in " ".join(arguments):
            found.append((words, arguments))

    walk(typer.main.get_command(app), ())
    return found


FOUND = commands()
IDS = [" ".join(words) for words, _ in FOUND]


MORE = {
    "checkpoint reset": ["--sink", "lake", "--to", "latest"],
    "opensearch rebuild": ["--table", "public.orders"],
    "audit show": ["TXID"],
}
"""What a command cannot do without."""


def line(words: tuple[str, ...], arguments: list[str], config: str) -> list[str]:
    return [
        *words,
        *MORE.get(" ".join(words), ()),
        *(config if "CONFIG" in argument else "x" for argument in arguments if argument.strip("[]…") != "TABLE"),
    ]


def test_the_commands_are_seen() -> None:
    """Control."""
    assert {"run", "status", "config lint", "dead show", "stream apply", "opensearch rebuild"} <= set(IDS)


@pytest.mark.parametrize(("words", "arguments"), FOUND, ids=IDS)
def test_a_config_that_is_not_there_or_none_is_one_error_with_the_next_command(
    project: Project, words: tuple[str, ...], arguments: list[str]
) -> None:
    bad = project.directory / "bad.yaml"
    bad.write_text("pipeline: p\nsource: {streem: x}\nsinks: [", encoding="utf-8")
    for path, code in ((str(project.directory / "nowhere.yaml"), "E002"), (str(bad), "E005")):
        plain = project.run(*line(words, arguments, path))
        said = plain.out if words == ("config", "lint") else plain.err
        assert plain.code == 2, plain.err
        assert f"DSQLCDC-{code} " in said
        assert "Traceback" not in plain.err
        answer = project.run(*line(words, arguments, path), "--json")
        assert answer.code == 2
        told = json.loads(answer.out if words == ("config", "lint") else answer.err)
        error = told["findings"][0] if "findings" in told else told["error"]
        assert (error["code"], bool(error["run"])) == (f"DSQLCDC-{code}", True)


@pytest.mark.parametrize(("words", "arguments"), FOUND, ids=IDS)
def test_an_unknown_option_names_the_commands_help(project: Project, words: tuple[str, ...], arguments: list[str]) -> None:
    answer = project.run(*line(words, arguments, "CONFIG"), "--no-such-option")
    assert (answer.code, answer.out) == (2, "")
    assert (
        answer.err == f"DSQLCDC-E090 no such option: --no-such-option, dsqlcdc {' '.join(words)}. Run: dsqlcdc {' '.join(words)} --help\n"
    )

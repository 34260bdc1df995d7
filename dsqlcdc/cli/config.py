"""`dsqlcdc config`: check the file, show it as it is understood, publish its schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dsqlcdc.cli.output import counted, emit, emit_json, say
from dsqlcdc.cli.shape import AsJson, ConfigFile, group

app = group("Check the config, show it resolved, print its JSON Schema.")


@app.command(short_help="Every mistake, with line, column and a fix.")
def lint(
    config: ConfigFile,
    in_lambda: Annotated[bool, typer.Option("--lambda", help="As the Lambda handler would take it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find every mistake in the file at once: line, column, what is wrong, and a fix. Exits 2 where there is one; a warning is told, and no
    mistake."""
    from dsqlcdc.config import look

    mistakes, warnings = look(Path(config), whole=not in_lambda)
    if as_json:
        emit_json({"ok": not mistakes, "file": str(config), "findings": [finding.as_json() for finding in (*mistakes, *warnings)]})
    else:
        for finding in mistakes:
            emit(finding.told())
        for finding in warnings:
            emit(f"warning: {finding.told()}")
        count = counted(len(mistakes), "mistake") if mistakes else "no mistakes"
        more = f", {counted(len(warnings), 'warning')}" if warnings else ""
        say(f"{config}: {count}{more}.")
    raise typer.Exit(2 if mistakes else 0)


@app.command(short_help="The config as it is understood, secrets masked.")
def show(config: ConfigFile, as_json: AsJson = False) -> None:
    """Print the config as it is understood: variables filled in, defaults said, secrets masked."""
    from dsqlcdc.config import load
    from dsqlcdc.config import show as resolved

    shown = resolved(load(Path(config)))
    if as_json:
        emit_json(shown)
    else:
        emit(_yaml(shown))


@app.command(short_help="The JSON Schema of the file, for editors.")
def schema(
    indent: Annotated[bool, typer.Option("--indent/--no-indent", help="Over many lines.")] = True,
    as_json: AsJson = False,
) -> None:
    """Print the JSON Schema of the config file. Editors complete and check with it."""
    from dsqlcdc.config import schema as made

    if as_json or not indent:
        emit_json(made())
        return
    import json

    emit(json.dumps(made(), indent=2, ensure_ascii=False))


def _yaml(value: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=140).rstrip("\n")

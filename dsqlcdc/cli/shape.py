"""How every command looks: shared options and arguments, and the settings of typer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The config file (YAML).", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON: one object, or one a line.")]
Yes = Annotated[bool, typer.Option("--yes", help="Answer yes to the question.")]


class Command(TyperCommand):
    """A command whose usage line reads as our documents do: `dsqlcdc status [OPTIONS] CONFIG`."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [param for param in self.params if isinstance(param, TyperArgument)]
        return ["[OPTIONS]", *(param.metavar or (param.name or "").upper() for param in arguments)]


class Application(typer.Typer):
    """A typer application whose commands are ours."""

    def command(self, name: str | None = None, **options: Any) -> Any:
        options.setdefault("cls", Command)
        return super().command(name, **options)


def application() -> typer.Typer:
    """A typer application of one command in our settings: plain help (rich costs 150 ms), no local values in tracebacks (secrets). Options
    for completion are our own: typer's have pydantic look at their defaults, which costs each command 100 ms."""
    return Application(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        pretty_exceptions_show_locals=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )


def _help(context: typer.Context, wanted: bool) -> None:
    if wanted:
        typer.echo(context.get_help())
        raise typer.Exit


Help = Annotated[bool, typer.Option("--help", "-h", callback=_help, is_eager=True, help="Show this message and exit.", show_default=False)]
"""The help of a group of commands. Typer's own, when it is not given, has pydantic look at that, which costs 100 ms."""


def group(help: str) -> typer.Typer:
    """A typer application of several commands."""
    app = application()

    @app.callback(help=help, add_help_option=False)
    def root(help: Help = False) -> None:
        pass

    return app

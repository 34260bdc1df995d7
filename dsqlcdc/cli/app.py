"""The command `dsqlcdc`: its commands by name, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import Abort, TyperException

from dsqlcdc.cli.output import ReaderGone, flush, json_text, say, silence, stand_in
from dsqlcdc.cli.shape import Help, application
from dsqlcdc.errors import ConfigError, Fault, Lost

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("dsqlcdc.cli.init", "Write a commented config, by questions or flags."),
    "run": ("dsqlcdc.cli.run", "Read the stream and deliver to the sinks."),
    "config": ("dsqlcdc.cli.config", "Check the config, show it resolved, print its JSON Schema."),
    "status": ("dsqlcdc.cli.status", "Per sink and shard: checkpoint, lag, open, gaps."),
    "doctor": ("dsqlcdc.cli.doctor", "What a run would trip over, each with its remedy."),
    "dead": ("dsqlcdc.cli.dead", "Records that could not be delivered, and why."),
    "gaps": ("dsqlcdc.cli.gaps", "What may have been lost, with bounds."),
    "tail": ("dsqlcdc.cli.tail", "Changes as they come, to stdout."),
    "checkpoint": ("dsqlcdc.cli.checkpoint", "Where every shard stands, and setting it anew."),
    "stream": ("dsqlcdc.cli.stream", "The stream manager: plan, apply, status, watch, delete."),
    "audit": ("dsqlcdc.cli.audit", "The lake as evidence: whole or not, a row's history."),
    "opensearch": ("dsqlcdc.cli.opensearch", "Rebuild an index of a sink of type opensearch."),
    "demo": ("dsqlcdc.cli.demo", "The whole road on this machine, without AWS."),
    "local": ("dsqlcdc.cli.local", "The embedded AWS alone, for development."),
}
"""Every command: its module, which is imported when the command is used and has a typer application `app`; and its line in the help."""

_COMPLETING = "_DSQLCDC_COMPLETE"
"""The variable by which a shell asks how a line goes on."""
_INTERRUPTED = 130
_READER_GONE = 141  # as the shell says of any program that a closed pipe ended


class Commands(TyperGroup):
    """The group that imports a command's module only when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        command = typer.main.get_command(import_module(COMMANDS[cmd_name][0]).app)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list in the help, from the table: without importing what is listed."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in COMMANDS.items()])

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Commands from the table: a tab waits for no module."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        completion = import_module("typer._click.shell_completion")  # typer has no public name for it
        return [completion.CompletionItem(name, help=help) for name, (_, help) in COMMANDS.items() if name.startswith(incomplete)]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As typer does, with suggestions from the table."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"no such command, {args[0]!r}" + (f": did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)


app = application()


def _version(wanted: bool) -> None:
    if wanted:
        from dsqlcdc import __version__

        typer.echo(f"dsqlcdc {__version__}")
        raise typer.Exit


def _install_completion(context: typer.Context, wanted: bool) -> None:
    if wanted:
        import_module("typer.completion").install_callback(context, None, True)


def _show_completion(context: typer.Context, wanted: bool) -> None:
    if wanted:
        import_module("typer.completion").show_callback(context, None, True)


@app.callback(cls=Commands, add_help_option=False)
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version and exit."),
    install_completion: bool = typer.Option(
        False,
        "--install-completion",
        callback=_install_completion,
        is_eager=True,
        help="Install completion for this shell: bash, zsh, fish.",
    ),
    show_completion: bool = typer.Option(False, "--show-completion", callback=_show_completion, is_eager=True, help="Show its script."),
    help: Help = False,
) -> None:
    """Aurora DSQL change streams, from every shard to your sinks, losing nothing, repeating nothing."""


def main() -> None:
    """The console script."""
    stand_in()
    sys.exit(invoke(sys.argv[1:]))


def invoke(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code. Errors go to stderr: a line each, with `--json` one object.

    0 done; 1 stopped or unreachable; 2 bad config or usage; 3 possible loss; 130 interrupted; 141 nobody reads stdout any more.
    """
    as_json = "--json" in arguments
    if _COMPLETING in os.environ:
        import_module("typer.completion").completion_init()
    try:
        code = typer.main.get_command(app).main(args=list(arguments) or ["--help"], prog_name="dsqlcdc", standalone_mode=False)
        flush()
        return code if isinstance(code, int) else 0
    except Fault as fault:
        report(fault, as_json, _config_of(arguments))
        return exit_code(fault)
    except TyperException as error:
        report(_usage(error), as_json)
        return 2
    except ReaderGone:
        silence()
        return _READER_GONE
    except (Abort, KeyboardInterrupt):
        return _INTERRUPTED


def exit_code(fault: Fault) -> int:
    """What a fault that ends a command makes of its exit code."""
    if isinstance(fault, ConfigError):
        return 2
    return 3 if isinstance(fault, Lost) else 1


def _config_of(arguments: Sequence[str]) -> str:
    """The config file of a command line: the last of its words that is a file; "" where there is none."""
    return next((word for word in reversed(arguments) if not word.startswith("-") and Path(word).is_file()), "")


def report(fault: Fault, as_json: bool, config: str = "") -> None:
    """Say a fault on stderr: every finding of a config's. `config`: the file's name, where it is known."""
    findings = [finding.named(config) for finding in (fault.findings if isinstance(fault, ConfigError) else (fault,))]
    fault.named(config)
    if as_json:
        body: dict[str, Any] = {"error": fault.as_json()}
        if isinstance(fault, ConfigError):
            body["findings"] = [finding.as_json() for finding in findings]
        say(json_text(body))
        return
    for finding in findings:
        say(str(finding))


def _usage(error: TyperException) -> ConfigError:
    """What typer says of a command line, in our form."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "dsqlcdc"
    what = error.format_message().rstrip(".")
    return ConfigError(what[:1].lower() + what[1:], where=path, run=f"{path} --help", code="E090")

"""`dsqlcdc init`: a commented config by questions or flags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dsqlcdc.cli.output import agreed, emit_json, say
from dsqlcdc.cli.shape import AsJson, application
from dsqlcdc.errors import ConfigError

if TYPE_CHECKING:
    from dsqlcdc.cli.answers import Answers

app = application()


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="[PATH]", help="The file to write.")] = Path("dsqlcdc.yaml"),
    stream: Annotated[str, typer.Option(metavar="NAME", help="The Kinesis data stream, by name or ARN.", show_default=False)] = "",
    region: Annotated[str, typer.Option(metavar="REGION", help="The AWS Region.", show_default="AWS_REGION, else us-east-1")] = "",
    sink: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE", help="A sink: s3, opensearch, webhook, stdout, drop; or NAME=TYPE. Several times for several."),
    ] = None,
    table: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE=KEY", help='A table and its key columns: "public.orders=order_id,item_id". Several times for several.'),
    ] = None,
    host: Annotated[Literal["daemon", "container", "lambda"] | None, typer.Option(help="Where it runs.", show_default="daemon")] = None,
    cluster: Annotated[
        str, typer.Option(metavar="ID", help="The DSQL cluster, for `dsqlcdc stream` and the doctor.", show_default=False)
    ] = "",
    bucket: Annotated[str, typer.Option(metavar="NAME", help="The bucket of the sink s3.", show_default=False)] = "",
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="What its objects' names begin with.")] = "cdc/",
    webhook_url: Annotated[str, typer.Option(metavar="URL", help="Where the sink webhook POSTs.", show_default=False)] = "",
    opensearch_url: Annotated[str, typer.Option(metavar="URL", help="The cluster of the sink opensearch.", show_default=False)] = "",
    opensearch_auth: Annotated[
        Literal["sign", "basic", "none"] | None,
        typer.Option(help="AWS credentials, a user, or nothing.", show_default="sign; none for http"),
    ] = None,
    state: Annotated[
        Literal["sqlite", "dynamodb", "memory"] | None,
        typer.Option(help="Where checkpoints are kept.", show_default="sqlite; dynamodb for a container"),
    ] = None,
    state_table: Annotated[str, typer.Option(metavar="NAME", help="The table of a state in DynamoDB.")] = "dsqlcdc",
    store_bucket: Annotated[
        str,
        typer.Option(metavar="NAME", help="Keep dead letters and pieces in this bucket.", show_default="--bucket where no disk lasts"),
    ] = "",
    start: Annotated[str, typer.Option(metavar="WHERE", help="trim_horizon, latest, or an ISO time with a zone.")] = "trim_horizon",
    pipeline: Annotated[str, typer.Option(metavar="NAME", help="The pipeline's name.", show_default="the stream's")] = "",
    listen: Annotated[
        str, typer.Option("--http", metavar="HOST:PORT", help="Where /status and /metrics are served; off: nowhere.", show_default=False)
    ] = "",
    endpoint_url: Annotated[str, typer.Option(metavar="URL", help="Something that is not AWS.", show_default=False)] = "",
    ask_aws: Annotated[bool, typer.Option("--ask-aws", help="List the streams and clusters there are, to choose from.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: samples stand for what was not said.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a commented config. On a terminal it asks for what the flags do not say; nothing is asked of AWS without --ask-aws.

    What is written passes `dsqlcdc config lint` as it is. With --yes a sample stands for what is not known, marked as such. A file that
    is there is overwritten only with --force, or when you say so.
    """
    from dsqlcdc.cli.answers import Answers

    answers = Answers(
        stream=stream,
        region=region,
        sinks=tuple(sink or ()),
        tables=tuple(table or ()),
        host=host,
        cluster=cluster,
        bucket=bucket,
        prefix=prefix,
        webhook_url=webhook_url,
        opensearch_url=opensearch_url,
        opensearch_auth=opensearch_auth,
        state=state,
        state_table=state_table,
        store_bucket=store_bucket,
        start=start,
        pipeline=pipeline,
        listen=listen,
        endpoint_url=endpoint_url,
    )
    may_ask = not yes and _terminal()
    _may_write(path, force=force, may_ask=may_ask)
    _write(path, answers, may_ask=may_ask, ask_aws=ask_aws, yes=yes, as_json=as_json)


def _terminal() -> bool:
    import sys

    return sys.stdin.isatty() and sys.stderr.isatty()


def _may_write(path: Path, *, force: bool, may_ask: bool) -> None:
    """Raises ConfigError where the file may not be written, or its place cannot."""
    import shlex

    where, again = str(path), f"dsqlcdc init {shlex.quote(str(path))}"
    if path.is_dir():
        raise ConfigError("this is a directory", where=where, run=f"{again}/dsqlcdc.yaml", code="E094")
    if not path.parent.is_dir():
        why = f"there is no directory {str(path.parent)!r}"
        raise ConfigError("the file cannot be written", where=where, why=why, run=f"mkdir -p {shlex.quote(str(path.parent))}", code="E094")
    if path.exists() and not force and not (may_ask and agreed(f"{path} is there already. Overwrite it?")):
        raise ConfigError("the file is there already, and stays as it is", where=where, run=f"{again} --force", code="E094")


def _write(path: Path, answers: Answers, *, may_ask: bool, ask_aws: bool, yes: bool, as_json: bool) -> None:
    from dsqlcdc.cli.answers import Known, known
    from dsqlcdc.cli.questions import ask
    from dsqlcdc.config.draft import compose, next_commands

    found = known(answers) if ask_aws else Known()
    if may_ask:
        answers = ask(answers, found, str(path))
    draft = answers.draft(found, samples=yes)
    text = compose(draft, str(path))
    variables = answers.check(draft, text, path)
    _put(path, text)
    following = next_commands(draft, str(path))
    if as_json:
        emit_json(
            {
                "path": str(path),
                "pipeline": draft.pipeline,
                "samples": sorted(draft.samples),
                "variables": variables,
                "next": [command for command, _ in following],
            }
        )
        return
    say(f"Wrote {path}.")
    if draft.samples:
        say(f"Samples stand for what was not said, write your own: {', '.join(sorted(draft.samples))}")
    if variables:
        say(f"Set before it runs: {', '.join(variables)}")
    say("Next:")
    width = max(len(command) for command, _ in following)
    for command, does in following:
        say(f"  {command:{width}}  {does}")


def _put(path: Path, text: str) -> None:
    """The file, whole or not at all, for its owner alone where it holds a secret."""
    import os
    import tempfile

    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            if "whsec_" not in text:
                mask = os.umask(0)
                os.umask(mask)
                os.chmod(name, 0o666 & ~mask)
            os.replace(name, os.path.realpath(path))
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError("the file cannot be written", where=str(path), why=why, run="dsqlcdc init --help", code="E094") from error

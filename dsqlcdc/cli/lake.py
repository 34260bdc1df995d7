"""`dsqlcdc audit ddl|transactions|show|compact`: the lake of an s3 sink, read and put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dsqlcdc.cli.output import columns, emit, emit_json, every_few_seconds, json_text, printable, say
from dsqlcdc.cli.shape import AsJson, ConfigFile, Yes
from dsqlcdc.errors import ConfigError

if TYPE_CHECKING:
    from dsqlcdc.config import Config
    from dsqlcdc.hosts.lake_query import Span, Version

SinkOption = Annotated[str, typer.Option("--sink", help="Whose lake; may be left out where there is but one s3 sink.", show_default=False)]
LakeOption = Annotated[
    Path | None, typer.Option("--lake", metavar="DIR", help="A local copy of the lake, in place of its bucket.", show_default=False)
]
FromOption = Annotated[
    str, typer.Option("--from", metavar="TIME", help="Commits from: 24h ago as 24h, or an ISO time.", show_default=False)
]
ToOption = Annotated[str, typer.Option("--to", metavar="TIME", help="… up to before.", show_default=False)]
View = Literal["table", "diff", "picture"]
_MANY = 50
"""Objects from which on it is said beforehand how many are read, also where nobody watches."""


def register(app: typer.Typer) -> None:
    """Add the commands to the group `audit`."""
    app.command(short_help="SQL that makes the lake readable.")(ddl)
    app.command(short_help="What was committed, transaction by transaction.")(transactions)
    app.command(short_help="One transaction, or the history of one row.")(show)
    app.command(short_help="Put the small objects of closed hours together.")(compact)


def ddl(
    config: ConfigFile,
    athena: Annotated[bool, typer.Option("--athena", help="For Amazon Athena.")] = False,
    duckdb: Annotated[bool, typer.Option("--duckdb", help="For DuckDB.")] = False,
    table: Annotated[str, typer.Option(help="Of this table, schema.table; else of all that CONFIG names.", show_default=False)] = "",
    since: Annotated[str, typer.Option(metavar="DATE", help="The day of the first commit, for Athena's partitions.")] = "2026-01-01",
    lake: LakeOption = None,
    sink: SinkOption = "",
    as_json: AsJson = False,
) -> None:
    """Print the SQL of a table over the lake, of a view with every change once, and of one with the rows as they are now.

    Table and views of `app.orders` are app_orders_lake, app_orders_changes and app_orders_current. Tables with a row model get a column for each
    of theirs. Athena finds partitions by projection: nothing has to be crawled or added.
    """
    from dsqlcdc.config import load
    from dsqlcdc.hosts import lake_ddl
    from dsqlcdc.hosts.lake_store import lake_sink

    loaded = load(Path(config))
    chosen = lake_sink(loaded, sink)
    if athena == duckdb or (athena and lake is not None):
        why = "Athena reads buckets only" if athena and not duckdb else "write one of --athena and --duckdb"
        raise ConfigError(
            "for whom the SQL is, is not said", where="--athena, --duckdb", why=why, run="dsqlcdc audit ddl --help", code="E390"
        )
    try:
        day = date.fromisoformat(since)
    except ValueError as error:
        raise ConfigError(f"{since!r} is no day", where="--since", why=str(error), run="dsqlcdc audit ddl --help", code="E390") from None
    names = [table] if table else [pattern for pattern in loaded.tables if not set(pattern) & set("*?[")]
    if not names:
        why = "CONFIG names tables by patterns only"
        raise ConfigError(
            "no table is named", where="--table", why=why, run=f"dsqlcdc audit ddl --table SCHEMA.TABLE {config}", code="E390"
        )
    place = f"{lake}/" if lake is not None else f"s3://{chosen.options['bucket']}/{chosen.options.get('prefix', '')}"
    typed = loaded.context(chosen.name).columns
    for name in names:
        schema, dot, bare = name.partition(".")
        if not dot:
            raise ConfigError(
                f"{name!r} is no table", where="--table", why="write schema.table", run="dsqlcdc audit ddl --help", code="E390"
            )
        target = lake_ddl.Target(
            schema,
            bare,
            place,
            str(chosen.options.get("format", "jsonl")),
            typed(name),
            bool(chosen.options.get("typed", False)),
            day,
        )
        text = (lake_ddl.athena if athena else lake_ddl.duckdb)(target)
        if as_json:
            emit_json({"table": name, "sql": text})
        else:
            emit(text)


def transactions(
    config: ConfigFile,
    since: FromOption = "",
    until: ToOption = "",
    table: Annotated[str, typer.Option(help="Only changes of these tables, schema.table; * and ? match.")] = "*",
    lake: LakeOption = None,
    sink: SinkOption = "",
    as_json: AsJson = False,
) -> None:
    """List the transactions of a time in commit order: when, how many changes, of which tables, by which operations.

    Only the partitions of that time are read. A transaction has the changes that are in the lake; DSQL does not say how many there were.
    """
    from dsqlcdc.hosts.lake_query import of_span

    span = _span(since, until, "audit transactions")
    found = _ask(config, sink, lake, table, span, lambda loaded: of_span(span), images=False)
    rows: list[dict[str, Any]] = []
    for version in found:
        if not rows or rows[-1]["transaction"] != version.transaction or rows[-1]["committed_at"] != version.committed_at:
            rows.append({"transaction": version.transaction, "committed_at": version.committed_at, "changes": 0, "tables": {}, "late": 0})
        rows[-1]["changes"] += 1
        rows[-1]["late"] += version.late
        ops = rows[-1]["tables"].setdefault(version.table, {})
        ops[version.op] = ops.get(version.op, 0) + 1
    if as_json:
        for row in rows:
            emit_json(row)
        return
    cells = [
        (
            row["committed_at"],
            row["transaction"],
            str(row["changes"]),
            "; ".join(
                f"{name}: {', '.join(f'{count} {op}' for op, count in sorted(ops.items()))}" for name, ops in sorted(row["tables"].items())
            ),
        )
        for row in rows
    ]
    emit(columns(("COMMITTED", "TRANSACTION", "CHANGES", "TABLES"), cells, right=(2,)) if cells else "No transactions in that time.")


def show(
    what: Annotated[
        list[str], typer.Argument(metavar="[TXID] CONFIG", help="The transaction, unless --key, and the config file.", show_default=False)
    ],
    key: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="TABLE KEY", help="One row: its table, and its key as COLUMN=VALUE,…, JSON, or the one value.", show_default=False
        ),
    ] = None,
    view: Annotated[View, typer.Option("-o", "--output", help="table, diff between versions, or picture of values over time.")] = "table",
    since: FromOption = "",
    until: ToOption = "",
    lake: LakeOption = None,
    sink: SinkOption = "",
    as_json: AsJson = False,
) -> None:
    """Show one transaction across all tables, or the history of one row, from the lake.

    With --from and --to the partitions of that time only are read. Without them: of a row all of its table; of a transaction the newest hours
    first, up to the hour in which it is found, since its id says nothing of its time; one that is not there costs the whole lake.
    """
    from dsqlcdc.hosts.lake_query import key_texts, of_key, of_transaction

    if len(what) != (1 if key is not None else 2):
        why = "with --key the config file stands alone, without it TXID comes before it"
        raise ConfigError("what to show is not said", where=" ".join(what), why=why, run="dsqlcdc audit show --help", code="E390")
    if key is None and Path(what[0]).is_file() and not Path(what[1]).exists():
        run = f"dsqlcdc audit show {what[1]} {what[0]}"
        raise ConfigError(
            "TXID comes before the config file", where=" ".join(what), why=f"there is no file {what[1]}", run=run, code="E390"
        )
    span = _span(since, until, "audit show")

    def question(loaded: Config) -> tuple[str, Sequence[Any]]:
        if key is None:
            return of_transaction(what[0], span)
        return of_key(key_texts(_key_of(loaded, key[0]), key[1], f"--key {key[0]} {key[1]}"), span)

    found = _ask(Path(what[-1]), sink, lake, "*" if key is None else key[0], span, question, once=key is None)
    if as_json:
        for version in found:
            emit_json(_as_json(version))
    elif not found:
        emit(f"The lake has no such {'transaction' if key is None else 'row'}{' in that time' if since or until else ''}.")
    elif view == "diff":
        _diff(found)
    elif view == "picture":
        _picture(found)
    else:
        _table(found)
    if not found:
        raise typer.Exit(1)


def compact(
    config: ConfigFile,
    older_than: Annotated[str, typer.Option(help="Hours that ended so long ago.")] = "24h",
    size: Annotated[
        str, typer.Option(help="Bytes of an object at the most, up to 256MiB. A run takes twice that of room in TMPDIR.")
    ] = "128MiB",
    dry: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    sink: SinkOption = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Put the objects of each table's closed hours together into larger ones, and delete the small ones.

    A compacted object holds each part as it was, and its manifest says where: what the chain says of a part stays provable. What the stream still
    holds, the end of the chain and lakes with Object Lock are not touched. It may run beside the daemon, and be stopped anywhere: the next run
    finishes it. Until then a row may be in two objects: take one row for each id, as the views of `audit ddl` do.
    """
    import asyncio

    from dsqlcdc.cli.selection import asked
    from dsqlcdc.config import load
    from dsqlcdc.hosts import compact as work
    from dsqlcdc.hosts.lake_store import lake_sink
    from dsqlcdc.units import parse_duration, parse_size

    try:
        age, most = parse_duration(older_than), parse_size(size)
    except ValueError as error:
        raise ConfigError(
            "that is no time or size", where="--older-than, --size", why=str(error), run="dsqlcdc audit compact --help", code="E390"
        ) from None
    if not 1024 * 1024 <= most <= 256 * 1024 * 1024:
        why = "an object has 1MiB to 256MiB: a single PUT is whole or not there"
        raise ConfigError(f"{size} cannot be had", where="--size", why=why, run="dsqlcdc audit compact --help", code="E390")
    loaded = load(Path(config))
    chosen = lake_sink(loaded, sink)
    place = f"s3://{chosen.options['bucket']}/{chosen.options.get('prefix', '')}"
    if not dry and not asked(f"Put small objects of {place} together and delete them?", f"dsqlcdc audit compact {config}", yes=yes):
        say("Nothing was changed.")
        return
    steps = objects = 0

    def tell(step: Any) -> None:
        nonlocal steps, objects
        steps, objects = steps + 1, objects + len(step.objects)
        if as_json:
            emit_json({"folder": step.folder, "objects": len(step.objects), "bytes": step.bytes, "rows": step.rows, "done": not dry})
        else:
            emit(
                f"{step.folder}: {len(step.objects)} objects{' would become' if dry else ' are'} one of {step.bytes} bytes, {step.rows} rows"
            )

    asyncio.run(work.compact(loaded, chosen, older_than=age, size=most, dry=dry, tell=tell))
    say(f"{objects} objects {'would become' if dry else 'became'} {steps}." if steps else "Nothing to put together.")


# ── what they share ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _span(since: str, until: str, command: str) -> Span:
    from dsqlcdc.cli.selection import span_of
    from dsqlcdc.hosts.lake_query import Span

    return Span(*span_of(since, until, command))


def _ask(
    config: Path,
    sink: str,
    lake: Path | None,
    tables: str,
    span: Span,
    question: Callable[[Config], tuple[str, Sequence[Any]]],
    *,
    images: bool = True,
    once: bool = False,
) -> list[Version]:
    """`once`: what is asked for has one commit time: newest hours first, up to the one that has it."""
    import asyncio
    import sys

    from dsqlcdc.config import load
    from dsqlcdc.hosts.lake_query import Compacted, ask, objects
    from dsqlcdc.hosts.lake_store import lake_sink, open_lake

    loaded = load(Path(config))
    where, values = question(loaded)

    def line(done: int, of: int) -> str:
        return f"{done} of {of} objects read"

    tell = every_few_seconds(line)

    async def work() -> list[Version]:
        async with open_lake(loaded, lake_sink(loaded, sink), lake) as store:
            names = await objects(store, tables, span)
            if sys.stderr.isatty() or len(names) > _MANY:
                say(f"{len(names)} objects of {store.where} may hold it{_hint(span, once=once)}")
            for _ in range(3):
                try:
                    return await ask(store, names, where, values, tell, images=images, once=once)
                except Compacted:
                    say("the lake was compacted meanwhile; reading it again")
                    names = await objects(store, tables, span)
            return await ask(store, names, where, values, tell, images=images, once=once)

    return asyncio.run(work())


def _hint(span: Span, *, once: bool) -> str:
    """What makes it cheaper, where the whole lake is asked."""
    if span.start is not None or span.end is not None:
        return ""
    order = "; the newest hours are read first, up to the one that has it" if once else ""
    return f"{order}. --from and --to (24h, or an ISO time) read that time only"


def _key_of(config: Config, table: str) -> Sequence[str]:
    from fnmatch import fnmatchcase

    rule = next((rule for pattern, rule in config.tables.items() if fnmatchcase(table, pattern)), None)
    if rule is None or not rule.key:
        why, run = "no key of it is named" if "." in table else "a table is written schema.table", f"dsqlcdc config show {config.path}"
        raise ConfigError("rows of this table cannot be told", where=f"--key {table}", why=why, run=run, code="E389")
    return rule.key


def _as_json(version: Version) -> dict[str, Any]:
    return {
        "committed_at": version.committed_at,
        "op": version.op,
        "table": version.table,
        "key": version.key,
        "row": version.row,
        "version": version.version,
        "transaction": version.transaction,
        "late": version.late,
        "id": version.id,
    }


def _table(found: Sequence[Version]) -> None:
    rows = [
        (
            version.committed_at,
            version.op + (" (late)" if version.late else ""),
            version.table,
            _text(version.key),
            version.transaction,
            _text(version.row),
        )
        for version in found
    ]
    emit(columns(("COMMITTED", "OP", "TABLE", "KEY", "TRANSACTION", "ROW"), rows))


def _diff(found: Sequence[Version]) -> None:
    from dsqlcdc.hosts.lake_query import changed

    before: dict[tuple[str, str], dict[str, Any] | None] = {}
    for version in found:
        row = version.table, _text(version.key if version.key is not None else version.id)
        emit(
            f"{version.committed_at}  {version.op}  {printable(version.table)}  {printable(row[1])}  transaction {printable(version.transaction)}"
        )
        for name, old, new in changed(before.get(row), version.row):
            if version.op == "delete" or row in before:
                emit(f"  - {printable(name)}: {printable(_text(old))}")
            if version.op != "delete":
                emit(f"  + {printable(name)}: {printable(_text(new))}")
        before[row] = version.row


def _picture(found: Sequence[Version]) -> None:
    import shutil
    import sys

    from dsqlcdc.cli.picture import picture

    plain = not sys.stdout.isatty() or "utf" not in (sys.stdout.encoding or "").lower()
    rows: dict[tuple[str, str], list[Version]] = {}
    for version in found:
        rows.setdefault((version.table, _text(version.key if version.key is not None else version.id)), []).append(version)
    for (table, key), versions in rows.items():
        emit(f"{printable(table)} {printable(key)}")
        moments = [(version.committed_at, version.row) for version in versions]
        emit(picture(moments, width=shutil.get_terminal_size((100, 24)).columns, plain=plain))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json_text(value)

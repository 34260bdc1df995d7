"""`dsqlcdc tail`: changes to stdout as they come, by a reader of its own: no state, no lock, nothing settled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dsqlcdc.cli.output import counted, emit, flush, moment, printable, say
from dsqlcdc.cli.selection import number_of, since_of
from dsqlcdc.cli.shape import AsJson, ConfigFile, application

if TYPE_CHECKING:
    from dsqlcdc.config import Config
    from dsqlcdc.contract import Change
    from dsqlcdc.core.ports import Gap
    from dsqlcdc.core.records import Page

app = application()

_ROW = 160
"""Characters of a row in a table; all of it with -o json."""
_PATIENCE = 60.0
Form = Literal["table", "json", "raw"]


@app.command()
def tail(
    config: ConfigFile,
    tables: Annotated[
        list[str] | None, typer.Argument(metavar="[TABLE…]", help="Only these tables, schema.table; * and ? match.", show_default=False)
    ] = None,
    since: Annotated[str, typer.Option(help="From when: a duration ago, or an ISO time.")] = "5m",
    limit: Annotated[str, typer.Option("-n", "--limit", metavar="N", help="End after so many changes.", show_default=False)] = "",
    output: Annotated[Form, typer.Option("-o", "--output", help="The form of a change.")] = "table",
    follow: Annotated[bool, typer.Option("--follow", help="Go on at the tip until interrupted.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the changes of the stream of CONFIG, a line each, as every shard has them: repeats and disorder of the stream too.

    Nothing is stored or settled. It shares the shards' read limits with the daemon. `raw` is the record as received (of an oversized row its
    main record). Records that cannot be read are told on stderr.
    """
    import asyncio

    from dsqlcdc.config import load

    most = number_of(limit, "-n", "tail") if limit else None
    start = since_of(since, "tail")
    form: Form = "json" if as_json else output
    reading = Reading(load(Path(config)), tables or [], form, most)
    try:
        asyncio.run(reading.run(start, follow))
    except KeyboardInterrupt:
        if not follow:
            raise
    finally:
        reading.sum_up()


class Reading:
    """One tail."""

    def __init__(self, config: Config, tables: list[str], form: Form, most: int | None) -> None:
        self._config, self._globs, self._form, self._most = config, tables, form, most
        self.shown = self.bad = self.pieces = 0

    async def run(self, start: float, follow: bool) -> None:
        """Until the tip, with `follow` for ever; or until enough was shown."""
        from contextlib import aclosing

        from dsqlcdc.assemble import aws_of, make_tables
        from dsqlcdc.core.ledger import Ledger
        from dsqlcdc.core.reassemble import Reassembler
        from dsqlcdc.sources.budget import ReadLimits
        from dsqlcdc.sources.feeds import open_feeds
        from dsqlcdc.sources.kinesis import KinesisSource
        from dsqlcdc.stores.fragments import MemoryFragments

        given, patience = self._config.source, None if follow else _PATIENCE
        limits = ReadLimits(given.reads_per_second, given.bytes_per_second)
        async with open_feeds(given.stream, aws_of(self._config), limits=limits, poll=given.poll, deadline=_PATIENCE) as feeds:
            source = KinesisSource(
                feeds,
                pipeline=self._config.pipeline,
                sink="tail",
                on_gap=self._gap,
                start=start,
                on_trimmed="continue",
                skew=given.skew,
                once=not follow,
                deadline=patience,
            )
            self._tables = make_tables(self._config)
            # `remember` puts rows together in bounded memory, and asks neither store nor ledger.
            self._rows = Reassembler("tail", MemoryFragments(("tail",)), Ledger({}), self._tables)
            try:
                marks = await source.start(None, warm_up=None)
                say(f"{feeds.stream}: {len(marks)} shards since {moment(start)}" + (", until interrupted" if follow else ""))
                async with aclosing(source.pages()) as pages:
                    async for page in pages:
                        self._page(page)
                        if self.shown == self._most:
                            return
            finally:
                await source.close()

    def _page(self, page: Page) -> None:
        from dsqlcdc.core.ports import Part
        from dsqlcdc.core.tables import Bad

        for record in page.records:
            item: Any = self._tables.read(page.shard, record)
            if isinstance(item, Bad):
                self.bad += 1
                say(printable(f"bad record {page.shard} {record.sequence_number}: {item.code}: {item.detail}"))
                continue
            if isinstance(item, Part):
                self.pieces += 1
                item = self._rows.remember(item)
            if item is not None and self._wanted(item):
                self._show(item)
                self.shown += 1
                if self.shown == self._most:
                    break
        if page.records:
            flush()

    def _wanted(self, change: Change) -> bool:
        from fnmatch import fnmatchcase

        return not self._globs or any(fnmatchcase(str(change.table), glob) for glob in self._globs)

    def _show(self, change: Change) -> None:
        if self._form == "raw":
            emit(change.raw.decode())
            return
        from dsqlcdc.lines import line

        if self._form == "json":
            emit(line(change).decode().rstrip("\n"))
            return
        key, row = (bytes(image or b"-").decode() for image in (change.key_image, change.image))
        cut = row if len(row) <= _ROW else row[:_ROW] + "…"
        cells = (moment(change.version / 1e9), f"{change.op.word:8}", f"{change.table!s:24}", f"{key:16}", cut)
        emit(printable("  ".join(cells)).rstrip())

    async def _gap(self, gap: Gap) -> Gap:
        say(printable(f"{gap.shard}: records were trimmed before they were read: {gap.detail}"))
        return gap

    def sum_up(self) -> None:
        """What there was, to stderr."""
        texts = [f"{counted(self.shown, 'change')}"]
        if self.bad:
            texts.append(f"{counted(self.bad, 'bad record')}")
        if self.pieces:
            texts.append(f"{counted(self.pieces, 'record')} of oversized rows")
        say(", ".join(texts) + ".")

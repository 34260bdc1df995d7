"""Progress on a terminal and elsewhere."""

from __future__ import annotations

import asyncio
import io
import logging

import pytest
from rich.console import Console

from dsqlcdc.core.telemetry import Status
from dsqlcdc.hosts.display import console, display, table
from dsqlcdc.hosts.rates import Flow, Rates, bytes_text, count_text, line, span_text
from dsqlcdc.testing.virtual import run

from .samples import NOW, shard, status


def test_rates_are_of_the_last_interval_when_looks_are_seldom() -> None:
    rates = Rates()
    assert rates.look([status()], 10.0)["lake"] == Flow()
    later = status(read=710, bytes=108_000, settled={"delivered": 700})
    assert rates.look([later], 70.0)["lake"] == Flow(10.0, 1_000.0, 10.0)
    assert rates.look([later], 130.0)["lake"] == Flow()


def test_rates_are_steady_though_pages_come_in_bursts() -> None:
    rates = Rates(5.0)
    seen = [rates.look([status(read=1000 * (tick // 2), settled={})], tick / 2)["lake"].read for tick in range(60)]
    assert all(800 <= rate <= 1200 for rate in seen[10:])


def test_a_counter_that_went_back_is_a_new_run_not_a_negative_rate() -> None:
    rates = Rates()
    rates.look([status()], 0.0)
    assert rates.look([status(read=0, bytes=0, settled={})], 1.0)["lake"] == Flow()
    assert rates.look([status(read=30, bytes=0, settled={})], 4.0)["lake"] == Flow(10.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (9.5, "9.5"), (1234, "1,234"), (12_345, "12.3k"), (4_500_000, "4.5M"), (2_000_000_000, "2.0G")]
)
def test_counts_are_short(number: float, text: str) -> None:
    assert count_text(number) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 1024**3, "3.0 GiB"), (2**50, "1024.0 TiB")]
)
def test_bytes_are_short(size: float, text: str) -> None:
    assert bytes_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (3.21, "3.2 s"), (59.4, "59 s"), (60, "1 min 00 s"), (250, "4 min 10 s"), (7500, "2 h 05 min"), (273_600, "3 d 04 h")],
)
def test_spans_show_their_two_largest_units(seconds: float, text: str) -> None:
    assert span_text(seconds) == text


def test_the_summary_line_is_golden() -> None:
    assert line(status(), Flow(50.0, 2048.0, 49.0), NOW) == (
        "orders-cdc/lake: running, read 110 (50/s, 2.0 KiB/s), settled delivered 90, stale 1, duplicate 5, parked 2, dead 2, open 10, "
        "behind 1.5 s, 1 shards, committed 1.5 s ago, retried 4, gaps 1"
    )


def drawn(statuses: list[Status], **flows: Flow) -> str:
    out = io.StringIO()
    Console(file=out, width=160).print(table(statuses, flows, NOW))
    return "\n".join(text.rstrip() for text in out.getvalue().splitlines())


def test_the_table_shows_sinks_troubles_and_the_shards_that_lag() -> None:
    shards = tuple(shard(f"shardId-{n:012d}", behind_ms=n * 1000) for n in range(15))
    stopped = status("hook", state="stopped", reason="DSQLCDC-E101 gone.", retries={}, dead={}, gaps=0, committed_at=0.0)
    text = drawn([status(shards=shards), stopped], lake=Flow(50, 2048, 49))
    lines = text.splitlines()
    assert lines[0].split() == ["sink", "state", "records/s", "bytes/s", "read", "settled", "open", "behind", "shards", "committed"]
    assert lines[1].split()[:4] == ["lake", "running", "50", "2.0"]
    assert "hook: DSQLCDC-E101 gone." in text
    assert "lake: tried again: E120 4" in text
    assert "lake: 1 gap: changes may be lost. Run: dsqlcdc gaps CONFIG" in text
    assert "shardId-000000000014" in text
    assert "shardId-000000000001" not in text
    assert "and 2 more" in text
    assert "never" in text


def test_markup_in_what_others_named_is_shown_not_obeyed() -> None:
    assert "[red]x[/red]" in drawn([status(reason="[red]x[/red]", state="stopped")])


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert console().no_color
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm")
    assert not console().no_color


def test_without_a_terminal_there_is_a_line_every_so_often_and_one_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []

    async def watched() -> None:
        async with display(lambda: [status(read=110 + len(seen))], stream=io.StringIO(), every=60.0, clock=lambda: NOW):
            for _ in range(6):
                await asyncio.sleep(30.5)
                seen.append(1)

    with caplog.at_level(logging.INFO, "dsqlcdc.progress"):
        run(watched())
    assert len(caplog.messages) == 4  # after 60, 120 and 180 s, and at the end
    assert all(message.startswith("orders-cdc/lake: running, read 1") for message in caplog.messages)


def test_a_live_table_is_redrawn_and_left_as_it_stands_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    reads = iter(range(1000, 9000, 111))

    async def watched() -> None:
        async with display(lambda: [status(read=next(reads))], live=True, stream=out, clock=lambda: NOW):
            await asyncio.sleep(2.2)

    run(watched())
    assert "lake" in out.getvalue()


def test_whatever_ends_what_is_watched_ends_the_display() -> None:
    async def watched() -> None:
        async with display(lambda: [status()], live=False, clock=lambda: NOW):
            raise RuntimeError("over")

    with pytest.raises(RuntimeError, match="over"):
        run(watched())

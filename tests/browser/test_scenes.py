"""The page over made-up statuses: two hundred shards, no data yet, a token, the keyboard; nothing of it needs AWS."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from dsqlcdc.core.telemetry import Kept, Status
from dsqlcdc.hosts.http import serve

from ..hosts.samples import gap, shard, status
from .windows import windows

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@contextmanager
def served(statuses: Callable[[], Sequence[Status]], **more: Any) -> Iterator[str]:
    """A server in a thread of its own, until left."""
    urls: list[str] = []
    ready = threading.Event()
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        async with serve("127.0.0.1:0", statuses, config="orders.yaml", **more) as url:
            urls.append(url)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="server")
    thread.start()
    try:
        assert ready.wait(20)
        yield urls[0]
    finally:
        loop, stop = loops[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)


def now_status(sink: str = "lake", **changes: Any) -> Status:
    """A status of this moment."""
    at = time.time()
    shards = changes.pop("shards", (shard(read_to=at, checkpoint_arrived=at - 1),))
    return status(
        sink, **{"committed_at": at - 1, "newest_version": int((at - 2) * 1e9), "dead": {}, "letters": 0, **changes}, shards=shards
    )


def test_with_two_hundred_shards_the_worst_come_first_and_the_others_are_summed_up(browser: Browser, shots: Path) -> None:
    many = tuple(shard(f"shardId-{n:012d}", behind_ms=90_000 if n == 137 else 0, open=n % 5) for n in range(200))
    with served(lambda: [now_status(shards=many), now_status("hook", shards=many)]) as url, windows(browser, url, shots) as shown:
        shown.open()
        shown.shows(".sink .shards", "200 shards, 1 behind the tip by a second or more")
        shown.shows(".sink tbody tr >> nth=0", "137")
        shown.shows("#todo", "Its furthest shard is 1 min 30 s behind")
        shown.shows(".sink .shards", "140 more are no worse than these")
        for page in shown.pages:
            rows, more = page.locator(".sink").first.locator(".shards tbody tr"), page.locator(".sink .shards button").first
            expect(rows).to_have_count(6)
            more.focus()
            page.keyboard.press("Enter")
            expect(rows).to_have_count(60)
            expect(more).to_have_attribute("aria-expanded", "true")
            expect(more).to_be_focused()
            page.keyboard.press("Enter")
            expect(rows).to_have_count(6)
            expect(page.locator(".strip rect")).to_have_count(400)
        shown.sound("many")


def test_with_nothing_yet_it_says_so(browser: Browser, shots: Path) -> None:
    empty = {
        "read": 0,
        "settled": {},
        "open": 0,
        "shards": (),
        "committed_at": 0.0,
        "newest_version": 0,
        "lag": {},
        "retries": {},
        "circuit": "",
    }
    sinks = [now_status("lake", state="starting", **empty), now_status("hook", **empty)]
    with served(lambda: sinks) as url, windows(browser, url, shots) as shown:
        shown.open()
        shown.shows("#verdict-title", "Starting")
        shown.shows(".sink .shards", "No shard has been read yet.")
        shown.shows(".sink .sum", "read 0 = 0 open")
        shown.shows(".facts", "nothing committed yet")
        shown.sound("nothing")
        sinks[0] = now_status("lake", **empty)
        shown.shows("#verdict-title", "Ready, and nothing has come yet")


def test_a_law_that_does_not_hold_would_be_said(browser: Browser, shots: Path) -> None:
    with served(lambda: [now_status(open=11)]) as url, windows(browser, url, shots) as shown:
        shown.open()
        shown.shows(".sink .sum", "does not add up")
        shown.shows("#todo", "what was read is not settled and open")


def test_many_troubles_are_named_with_their_commands(browser: Browser, shots: Path) -> None:
    async def kept() -> Kept:
        return Kept("orders-cdc", tuple(gap(f"{n:012x}", found_at=time.time()) for n in range(30)), 3, 9_000_000, time.time())

    sinks = [now_status(dead={"refused": 7}, letters=7), now_status("hook", circuit="open", alarm=0.75, retention_used=0.76)]
    with served(lambda: sinks, kept=kept, kept_every=0.2) as url, windows(browser, url, shots) as shown:
        shown.open()
        shown.shows("#todo", "hook takes nothing")
        shown.shows("#todo", "30 gaps not acknowledged")
        shown.shows("#todo", "Dead letters were written")
        shown.shows("#gaps", "25 more.")
        shown.shows("#letters", "dsqlcdc dead replay orders.yaml --dry-run")
        shown.shows("#reading, #gaps", "trimmed")
        shown.sound("troubles")


def test_a_token_is_asked_for_kept_in_the_tab_and_never_in_the_address(browser: Browser, shots: Path) -> None:
    token = "correct horse battery"
    with served(lambda: [now_status()], token=token) as url, windows(browser, url, shots) as shown:
        shown.open()
        shown.shows("#token", "A token is needed")
        for page in shown.pages:
            expect(page.get_by_label("Token")).to_be_focused()
            assert "lake" not in page.locator("body").inner_text()
            page.keyboard.type("wrong")
            page.keyboard.press("Enter")
            expect(page.locator("#token-wrong")).to_have_text("This token is not the one.")
        told = {complaint for complaint in shown.complaints if "401" not in complaint}  # Chromium tells of every refused request
        shown.complaints[:] = sorted(told)
        shown.sound("token")
        for page in shown.pages:
            page.get_by_label("Token").fill(token)
            page.keyboard.press("Enter")
        shown.shows("#sink-lake", "lake")
        for page in shown.pages:
            assert page.url == url + "/"
            page.reload()
        shown.shows("#sink-lake", "lake")
        shown.open(f"/#token={token.replace(' ', '+')}")
        shown.shows("#sink-lake", "lake")
        for page in shown.pages:
            expect(page).to_have_url(url + "/")
        shown.sound("with-token")


def test_the_keyboard_reaches_everything_and_a_chart_tells_its_values(browser: Browser, shots: Path) -> None:
    with served(lambda: [now_status()]) as url, windows(browser, url, shots, kinds=((1280, "light"),)) as shown:
        shown.open()
        shown.shows("#sink-lake", "lake")
        (page,) = shown.pages
        page.keyboard.press("Tab")
        expect(page.get_by_text("Skip to the state")).to_be_focused()
        reached = set()
        for _ in range(14):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.tagName + ' ' + document.activeElement.className"))
        assert {"CODE ", "BUTTON copy", "SUMMARY ", "A "} <= reached
        expect(page.locator(".chart path.line").first).to_have_attribute("d", re.compile("L"))
        page.locator("summary").first.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("table", name="lake by the minute")).to_be_visible()
        box = page.locator(".chart svg").first.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] - 10, box["y"] + 50)
        expect(page.locator(".chart .when").first).to_have_text(re.compile(r"\d\d:\d\d:\d\d"))
        shown.sound("keyboard")


def test_a_page_of_elsewhere_cannot_read_it_nor_frame_it(browser: Browser, shots: Path) -> None:
    with served(lambda: [now_status()]) as url, served(list) as elsewhere:
        page = browser.new_page()
        page.goto(elsewhere + "/healthz")
        read = page.evaluate("url => fetch(url + '/status').then((a) => a.text(), (error) => error.name)", url)
        assert read == "TypeError"
        page.close()


def test_axe_finds_what_is_wrong(browser: Browser, shots: Path) -> None:
    """Control: an image without its text, a heading's colour too faint."""
    with served(lambda: [now_status()]) as url, windows(browser, url, shots, kinds=((1280, "light"),)) as shown:
        shown.open()
        shown.shows("#sink-lake", "lake")
        shown.pages[0].evaluate("document.body.append(document.createElement('img')); document.querySelector('h1').style.color = '#ddd'")
        with pytest.raises(AssertionError, match=r"(?s)color-contrast|image-alt"):
            shown.sound("control")


def test_what_is_loaded_from_outside_or_against_the_policy_is_complained_of(browser: Browser, shots: Path) -> None:
    """Control."""
    with served(lambda: [now_status()]) as url, served(list) as elsewhere, windows(browser, url, shots, kinds=((360, "dark"),)) as shown:
        shown.open()
        shown.pages[0].evaluate("url => { const made = new Image(); made.src = url + '/icon.svg'; document.body.append(made); }", elsewhere)
        shown.pages[0].wait_for_timeout(500)
        assert any("img-src" in complaint or "Content Security Policy" in complaint for complaint in shown.complaints)

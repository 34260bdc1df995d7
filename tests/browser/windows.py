"""The page in a real Chromium, in four windows at once: light and dark, wide and narrow; what they must never do is gathered."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, expect

KINDS: Sequence[tuple[int, Literal["light", "dark"]]] = ((1280, "light"), (1280, "dark"), (360, "light"), (360, "dark"))
PATIENCE = 40_000.0
"""Milliseconds within which the page must show what is so, on a loaded machine."""
_REFUSED = re.compile(r"net::ERR_(CONNECTION_REFUSED|INCOMPLETE_CHUNKED_ENCODING|CONNECTION_RESET|EMPTY_RESPONSE)")
_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) => console.error(`CSP: ${event.violatedDirective} ${event.blockedURI}`));
"""


def chromium() -> str | None:
    """The browser's program: DSQLCDC_CHROMIUM, or one on the path."""
    named = os.environ.get("DSQLCDC_CHROMIUM")
    return named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Windows:
    """Four windows on one address. Every method is of all four."""

    def __init__(self, browser: Browser, url: str, shots: Path, kinds: Sequence[tuple[int, Literal["light", "dark"]]] = KINDS) -> None:
        self.url, self._shots = url, shots
        self.complaints: list[str] = []
        self.gone = False
        """Nobody answers at the moment: that a request failed is no complaint."""
        self.pages: list[Page] = []
        self.kinds = kinds
        for width, scheme in kinds:
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
            context.add_init_script(_VIOLATIONS)
            page = context.new_page()
            page.set_default_timeout(PATIENCE)
            page.on("console", self._said)
            page.on("pageerror", lambda error: self.complaints.append(f"error {error}"))
            page.on("request", self._asked)
            self.pages.append(page)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not (self.gone and _REFUSED.search(message.text)):
            self.complaints.append(f"{message.type} {message.text}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:")):
            self.complaints.append(f"asked {request.url}")

    def open(self, path: str = "/") -> None:
        for page in self.pages:
            page.goto(self.url + path)

    def shows(self, place: str, words: str | re.Pattern[str], within: float = PATIENCE) -> None:
        """Each shows these words in the place, a CSS selector."""
        for page in self.pages:
            expect(page.locator(place).first).to_contain_text(words, timeout=within)

    def each(self, place: str) -> list[Locator]:
        return [page.locator(place) for page in self.pages]

    def sound(self, name: str) -> None:
        """Nothing was complained of, nothing sticks out, axe finds nothing; and a picture of each is kept."""
        for page, (width, scheme) in zip(self.pages, self.kinds, strict=True):
            page.screenshot(path=self._shots / f"{name}-{width}-{scheme}.png", full_page=True)
            broad = page.evaluate("document.documentElement.scrollWidth")
            assert broad <= width, f"{name}: {broad} of {width} pixels"
            found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]})
            assert found.violations_count == 0, f"{name} {width} {scheme}: {found.generate_report()}"
        assert self.complaints == [], name

    def close(self) -> None:
        for page in self.pages:
            page.context.close()


@contextmanager
def windows(browser: Browser, url: str, shots: Path, **more: Any) -> Iterator[Windows]:
    opened = Windows(browser, url, shots, **more)
    try:
        yield opened
    finally:
        opened.close()

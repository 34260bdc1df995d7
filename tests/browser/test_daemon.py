"""The page of a real daemon on the embedded AWS: what is driven there is what it shows, in light and dark, wide and narrow."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from ..acceptance.command import Command
from ..acceptance.server import ServerProcess
from ..acceptance.world import free_port
from .receiver import SECRET, Receiver, receiving
from .windows import PATIENCE, Windows, windows

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

STREAM, BUCKET = "orders-cdc", "lake"


class Site:
    """A cluster with its CDC stream, two sinks, a daemon."""

    def __init__(self, server: ServerProcess, receiver: Receiver, directory: Path) -> None:
        self.server, self.receiver, self.directory = server, receiver, directory
        self.port = free_port()
        server.client("s3").create_bucket(Bucket=BUCKET)
        self.cluster: str = server.client("dsql").create_cluster(deletionProtectionEnabled=False)["identifier"]
        self.config = directory / "orders.yaml"
        body = {
            "pipeline": "orders-cdc",
            "source": {"stream": STREAM, "poll": "200ms", "reads_per_second": 20, "on_trimmed": "continue"},
            "tables": {"public.orders": {"key": ["order_id", "item_id"]}, "app.notes": {"key": ["slug"]}, "*": {"key": ["id"]}},
            "sinks": {
                "lake": {"type": "s3", "bucket": BUCKET, "prefix": "cdc/", "roll": {"age": "500ms"}},
                "hook": {"type": "webhook", "url": receiver.url, "secrets": [SECRET], "allow_http": True, "allow_private": ["127.0.0.0/8"]},
            },
            "http": {"listen": f"127.0.0.1:{self.port}"},
            "stream": {"cluster": self.cluster, "kinesis": {"mode": "provisioned", "shards": 4}, "poll": "1s"},
        }
        self.config.write_text(json.dumps(body, indent=1))
        self.run("stream", "apply", str(self.config), "--yes")
        server.control("throttle", reads=False)
        self.daemon = self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run(self, *arguments: str) -> str:
        return Command(self.directory, self.server.environ, *arguments).end(within=90).expect(0).out

    def start(self) -> Command:
        return Command(self.directory, self.server.environ, "run", str(self.config))

    def commit(self, transactions: int = 60) -> None:
        self.server.commit(cluster=self.cluster, transactions=transactions, duplicates=0.05, disorder=10)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ServerProcess(seed=5) as server, receiving() as receiver:
        made = Site(server, receiver, tmp_path)
        try:
            yield made
        finally:
            made.daemon.kill()


def sums(shown: Windows) -> list[dict[str, dict[str, int]]]:
    """What each window says of each sink: read, settled by outcome, open."""
    found: list[dict[str, dict[str, int]]] = []
    for page in shown.pages:
        by_sink: dict[str, dict[str, int]] = {}
        for card in page.locator(".sink").all():
            text = card.locator(".sum").inner_text().replace(",", "")
            read = re.match(r"read (\d+)", text)
            assert read is not None, text
            terms = {word: int(count) for count, word in re.findall(r"(\d+) (\w+)", text.partition("=")[2])}
            by_sink[card.locator("h2").inner_text()] = {"read": int(read[1]), **terms}
        found.append(by_sink)
    return found


def test_the_page_says_the_truth_whatever_happens(site: Site, browser: Browser, shots: Path) -> None:
    with windows(browser, site.url, shots) as shown:
        _flows(site, shown)
        _splits(site, shown)
        _agrees(site, shown)
        _impaired(site, shown)
        _stopped(site, shown)
        _goes_and_comes_back_with_a_gap(site, shown)


def _flows(site: Site, shown: Windows) -> None:
    site.daemon.until(lambda: "starts at" in site.daemon.err, "the daemon reads")
    site.commit()
    shown.open()
    shown.shows("#news", "Live")
    shown.shows("#pipeline", "orders-cdc")
    shown.shows("#verdict-title", "Everything flows")
    shown.shows("#sink-lake", "lake")
    shown.shows("#stream", "ACTIVE")
    for _ in range(4):
        site.commit()
        shown.shows(".sink .sum", re.compile(r"read [1-9].* delivered"))
    for page in shown.pages:
        drawn = page.locator(".chart svg path.line").first
        expect(drawn).to_have_attribute("d", re.compile(r"^M.*L"), timeout=PATIENCE)
        label = page.locator(".chart svg").first.get_attribute("aria-label") or ""
        assert re.match(r"Throughput over .*: read now .*, highest .*; settled now", label), label
    shown.sound("flows")


def _splits(site: Site, shown: Windows) -> None:
    site.server.split(STREAM)
    site.commit()
    shown.shows("#happened", re.compile(r"shards changed: shardId-0+ ended; .*began"))
    shown.shows(".sink .shards", re.compile(r"5 shards, 1 closed"))
    shown.sound("split")


def _agrees(site: Site, shown: Windows) -> None:
    """The page, `status` and the ledger's own numbers are the same, once nothing moves."""
    for sink in ("lake", "hook"):
        shown.shows(f"section[aria-labelledby=sink-{sink}] .sum", re.compile(r"\+ 0 open"))
    told = json.loads(site.run("status", str(site.config), "--json"))["sinks"]
    for by_sink in sums(shown):
        for sink, said in by_sink.items():
            ledger = told[sink]["running"]
            assert said["read"] == ledger["read"] == sum(ledger["settled"].values()) + ledger["open"]
            assert said["open"] == ledger["open"]
            assert {word: n for word, n in said.items() if word not in ("read", "open")} == {
                outcome: n for outcome, n in ledger["settled"].items() if n
            }


def _impaired(site: Site, shown: Windows) -> None:
    stream = json.loads(site.run("stream", "status", str(site.config), "--json"))["id"]
    site.server.cause(site.cluster, stream, "KINESIS_ACCESS_DENIED")
    shown.shows("#verdict-title", "1 thing to look at")
    shown.shows("#todo", "The CDC stream is IMPAIRED: KINESIS_ACCESS_DENIED")
    shown.shows("#stream", "The role may not write to the Kinesis stream.")
    shown.shows("#stream .steps .command", "aws iam put-role-policy")
    shown.shows("#stream", re.compile(r"held back|holds back .*is kept until"))
    shown.sound("impaired")
    site.run("stream", "apply", str(site.config), "--yes")
    shown.shows("#verdict-title", "Everything flows")
    shown.shows("#happened", "the CDC stream is ACTIVE, IMPAIRED before")


def _stopped(site: Site, shown: Windows) -> None:
    site.receiver.answer = 401
    site.commit()
    card = "section[aria-labelledby=sink-hook]"
    shown.shows(f"{card} .badge", "stopped")
    shown.shows(f"{card} .why", "401")
    shown.shows("#todo", "hook has stopped")
    shown.shows("#todo .command", f"dsqlcdc run {site.config}")
    shown.shows("section[aria-labelledby=sink-lake] .badge", "running")
    shown.shows("#happened", "stopped, running before")
    shown.shows(f"{card} .shards", "not read any more")
    for page in shown.pages:
        assert page.locator(f"{card} .sum strong.wrong").count() == 0, "what was read is settled or open, stopped or not"
    shown.sound("stopped")


def _goes_and_comes_back_with_a_gap(site: Site, shown: Windows) -> None:
    shown.gone = True
    site.daemon.end(signal.SIGTERM, within=60)
    shown.shows("#news", re.compile(r"No news since \d\d:\d\d:\d\d"))
    shown.shows("#verdict-title", "Disconnected: what stands here is as of")
    before = sums(shown)
    shown.sound("disconnected")
    assert sums(shown) == before, "what was last heard stays"
    site.commit()
    site.server.control("trim", stream=STREAM)
    site.receiver.answer = 204
    site.daemon = site.start()
    shown.shows("#news", "Live")
    shown.gone = False
    site.commit()
    shown.shows("#gaps", "trimmed")
    shown.shows("#todo", "not acknowledged")
    shown.shows("#gaps .command", "dsqlcdc gaps ack")
    shown.sound("gap")
    site.run("gaps", "ack", "--all", str(site.config), "--reason", "repaired", "--yes")
    shown.shows("#gaps", "None that is not acknowledged.")
    shown.shows("#verdict-title", "Everything flows")


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def test_the_demo_shows_its_page(browser: Browser, shots: Path, tmp_path: Path) -> None:
    port = free_port()
    demo = Command(tmp_path, dict(os.environ), "demo", "--stay", "--port", str(port), "--dir", str(tmp_path / "demo"))
    try:
        demo.says(f"The page: http://127.0.0.1:{port}/", within=120)
        demo.until(lambda: answers(port), "the page is served")
        with windows(browser, f"http://127.0.0.1:{port}", shots) as shown:
            shown.open()
            shown.shows("#pipeline", "demo")
            shown.shows("#news", "Live")
            shown.shows(".sink .sum", re.compile(r"read [1-9]"))
            shown.shows("#stream", "ACTIVE")
            for page in shown.pages:
                before = page.locator(".sink .sum").first.inner_text()
                expect(page.locator(".sink .sum").first).not_to_have_text(before, timeout=PATIENCE)
            shown.sound("demo")
    finally:
        demo.kill()

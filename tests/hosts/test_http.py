"""The http server: what it answers, and to whom."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator
from importlib import resources
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from dsqlcdc.core.telemetry import Kept, Status
from dsqlcdc.errors import Misconfigured, Unavailable
from dsqlcdc.hosts import http as module
from dsqlcdc.hosts.http import serve
from dsqlcdc.hosts.readiness import Readiness

from .samples import NOW, gap, kept, shard, status, view


class World:
    """A server over statuses that the test sets, and a client."""

    def __init__(self, url: str, statuses: list[Status], client: aiohttp.ClientSession) -> None:
        self.url, self.statuses, self.client = url, statuses, client

    async def get(self, path: str, **headers: str) -> tuple[int, str, aiohttp.ClientResponse]:
        async with self.client.get(self.url + path, headers=headers) as response:
            return response.status, await response.text(), response


@pytest.fixture
async def world() -> AsyncIterator[World]:
    statuses = [status()]
    async with (
        serve("127.0.0.1:0", lambda: statuses, names=("dsqlcdc.shop.svc",), readiness=Readiness(60), clock=lambda: NOW) as url,
        aiohttp.ClientSession() as client,
    ):
        yield World(url, statuses, client)


async def test_healthz_is_about_the_process_alone(world: World) -> None:
    world.statuses[:] = [status(state="stopped")]
    code, body, _ = await world.get("/healthz")
    assert (code, json.loads(body)["alive"]) == (200, True)


async def test_readyz_gives_the_reason_with_503(world: World) -> None:
    assert (await world.get("/readyz"))[0] == 200
    world.statuses[:] = [status(), status("hook", state="stopped", reason="DSQLCDC-E101 gone")]
    code, body, _ = await world.get("/readyz")
    assert code == 503
    assert json.loads(body) == {
        "ready": False,
        "reasons": [{"pipeline": "orders-cdc", "sink": "hook", "code": "stopped", "reason": "DSQLCDC-E101 gone"}],
    }


async def test_metrics_are_in_the_form_that_was_asked_for(world: World) -> None:
    code, body, response = await world.get("/metrics")
    assert code == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    names = {sample.name for family in parse(body) for sample in family.samples}
    assert {"dsqlcdc_read_total", "dsqlcdc_settled_total", "dsqlcdc_open"} <= names
    _, body, response = await world.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")


async def test_status_tells_all_and_keeps_nanoseconds_exact(world: World) -> None:
    code, body, _ = await world.get("/status")
    (pipeline,) = json.loads(body)["pipelines"]
    assert code == 200
    assert pipeline["newest_version"] == "1799999990123456789"
    assert pipeline["read"] == sum(pipeline["settled"].values()) + pipeline["open"]
    assert pipeline["shards"][0]["shard"] == "shardId-000000000000"
    assert set(pipeline) == set(Status.__struct_fields__)


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "127.0.0.1:9999", "10.1.2.3:8080", "[::1]:8080", "dsqlcdc.shop.svc:8080", "LOCALHOST"]
)
async def test_addresses_and_our_own_names_are_answered(world: World, host: str) -> None:
    assert (await world.get("/status", Host=host))[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "a@127.0.0.1", "", "[::1"]
)
@pytest.mark.parametrize("path", ["/status", "/metrics", "/readyz", "/healthz", "/"])
async def test_a_foreign_host_is_refused_everywhere(world: World, host: str, path: str) -> None:
    code, body, _ = await world.get(path, Host=host)
    assert code in (400, 421)
    assert "orders-cdc" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_nothing_can_be_changed(world: World, method: str) -> None:
    async with world.client.request(method, world.url + "/status") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET, HEAD"


async def test_head_is_answered_without_a_body(world: World) -> None:
    async with world.client.head(world.url + "/readyz") as response:
        assert (response.status, await response.read()) == (200, b"")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/status", "/nothing", "/", "/page.js", "/page.css", "/icon.svg"])
async def test_every_answer_has_the_security_headers(world: World, path: str) -> None:
    _, _, response = await world.get(path)
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Frame-Options"] == "DENY"
    assert response.headers["Server"] == "dsqlcdc"
    assert "Access-Control-Allow-Origin" not in response.headers


async def test_an_unknown_page_names_the_known_ones(world: World) -> None:
    code, body, _ = await world.get("/nothing")
    assert code == 404
    assert json.loads(body)["pages"] == ["/", "/healthz", "/readyz", "/metrics", "/status", "/events"]


async def test_the_port_is_free_again_when_it_is_left() -> None:
    async with serve("127.0.0.1:0", list) as url:
        port = int(url.rpartition(":")[2])
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


async def test_a_taken_port_is_said_with_its_place() -> None:
    async with serve("127.0.0.1:0", list) as url:
        with pytest.raises(Misconfigured, match=r"E130.*cannot listen.*in use"):
            async with serve(url.removeprefix("http://"), list):
                pass


async def test_the_cdc_stream_is_shown_where_it_is_watched_and_is_no_reason_not_to_be_ready() -> None:
    async with serve("127.0.0.1:0", lambda: [status()], watch=view, clock=lambda: NOW) as url, aiohttp.ClientSession() as client:
        for path in ("/readyz", "/status"):
            async with client.get(url + path) as response:
                body = await response.json()
                assert response.status == 200
                assert body["stream"]["status"] == "IMPAIRED"
                assert body["stream"]["reason"]["error"] == "ROLE_ACCESS_DENIED"
                assert body["stream"]["kept_until"] == "2027-01-22T07:00:00Z"


# the page ------------------------------------------------------------------------------------------------------------------------------

PAGE = resources.files("dsqlcdc.hosts") / "page"


async def test_the_page_is_served_with_a_policy_that_allows_its_own_files_only(world: World) -> None:
    code, body, response = await world.get("/")
    assert (code, response.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.strip().partition(" ")[::2] for part in response.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in str(policy)
    assert "orders-cdc" not in body, "the page itself holds nothing of the pipeline"


async def test_every_file_of_the_page_is_served_and_none_names_an_address(world: World) -> None:
    for file in PAGE.iterdir():
        code, body, _ = await world.get("/" if file.name == "index.html" else f"/{file.name}")
        assert code == 200, file.name
        addresses = set(re.findall(r"(?:https?:)?//[a-z][\w.-]+\.[a-z]+[^\s\"']*", body))
        assert addresses <= {"http://www.w3.org/2000/svg"}, file.name  # the name of a namespace, which nothing loads
        assert not re.search(r"innerHTML|eval\(|new Function|style=|onclick=\"", body), file.name


async def read_events(world: World, names: tuple[str, ...], **headers: str) -> dict[str, Any]:
    """The first event of each name."""
    found: dict[str, Any] = {}
    async with world.client.get(world.url + "/events", headers=headers) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        while not set(names) <= set(found):
            name = (await response.content.readline()).decode().removeprefix("event: ").strip()
            data = (await response.content.readline()).decode().removeprefix("data: ")
            assert await response.content.readline() == b"\n"
            found.setdefault(name, json.loads(data))
    return found


async def test_events_tell_what_was_and_then_what_is(world: World) -> None:
    found = await read_events(world, ("history", "shards", "tick"))
    (sink,) = found["tick"]["sinks"]
    assert sink["read"] == sum(sink["settled"].values()) + sink["open"]
    assert (found["tick"]["pipeline"], sink["name"], sink["state"]) == ("orders-cdc", "lake", "running")
    assert set(found["history"]["sinks"]["lake"]) == {"read", "settled", "bytes", "open", "behind", "waited"}
    assert [one["shard"] for one in sink["shards"]["shown"]] == ["shardId-000000000000"]


async def test_the_page_the_status_and_the_metrics_say_the_same_numbers(world: World) -> None:
    tick = (await read_events(world, ("tick",)))["tick"]["sinks"][0]
    told = json.loads((await world.get("/status"))[1])["pipelines"][0]
    samples = {
        (sample.name, sample.labels.get("outcome", "")): sample.value
        for family in parse((await world.get("/metrics"))[1])
        for sample in family.samples
    }
    assert tick["read"] == told["read"] == samples["dsqlcdc_read_total", ""]
    assert tick["open"] == told["open"] == samples["dsqlcdc_open", ""]
    assert tick["settled"] == told["settled"] == {o: samples["dsqlcdc_settled_total", o] for o in told["settled"]}


async def test_so_many_may_listen_and_whoever_goes_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LISTENERS", 1)
    monkeypatch.setattr("dsqlcdc.hosts.live.STEP", 0.02)
    async with serve("127.0.0.1:0", lambda: [status()]) as url, aiohttp.ClientSession() as client, asyncio.timeout(10):
        async with client.get(url + "/events") as first, client.get(url + "/events") as second:
            assert (first.status, second.status) == (200, 503)
        answer = 503
        while answer == 503:
            async with client.get(url + "/events") as next_one:
                answer = next_one.status
        assert answer == 200


async def test_who_takes_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLOW", 0.1)
    monkeypatch.setattr(module, "_LISTENERS", 1)
    monkeypatch.setattr("dsqlcdc.hosts.live.STEP", 0.001)
    many = tuple(shard(f"shardId-{n:012d}") for n in range(900))
    async with serve("127.0.0.1:0", lambda: [status(shards=many)]) as url, aiohttp.ClientSession() as client, asyncio.timeout(30):
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.connect(("127.0.0.1", int(url.rpartition(":")[2])))
            lazy.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = 503
            while answer == 503:
                async with client.get(url + "/events") as next_one:
                    answer = next_one.status
            assert answer == 200


async def test_a_server_that_ends_keeps_nobody_waiting() -> None:
    async with aiohttp.ClientSession() as client:
        async with asyncio.timeout(5), serve("127.0.0.1:0", lambda: [status()]) as url:
            response = await client.get(url + "/events")
            await response.content.readline()
        async with asyncio.timeout(5):
            with contextlib.suppress(aiohttp.ClientError):
                await response.content.read()


async def test_gaps_are_told_with_the_command_and_a_store_that_does_not_answer_keeps_the_last_answer() -> None:
    answers: list[Kept | None] = [kept(), None]

    async def ask() -> Kept:
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        if found is None:
            raise Unavailable("the state is locked")
        return found

    serving = serve("127.0.0.1:0", lambda: [status()], kept=ask, kept_every=0.01, config="orders.yaml", clock=lambda: NOW)
    async with serving as url, aiohttp.ClientSession() as client:
        body: dict[str, Any] = {}
        while not body.get("stores_at"):
            async with client.get(url + "/status") as response:
                body = await response.json()
        assert body["gaps"]["unacknowledged"] == 1
        (shown,) = body["gaps"]["shown"]
        assert (shown["id"], shown["run"]) == (gap().id, "dsqlcdc gaps orders.yaml")
        assert body["fragments"] == {"parts": 3, "bytes": 9_000_000}


# who may ask ---------------------------------------------------------------------------------------------------------------------------

TOKEN = "correct horse battery"


@pytest.fixture
async def locked() -> AsyncIterator[World]:
    statuses = [status()]
    async with serve("127.0.0.1:0", lambda: statuses, token=TOKEN, clock=lambda: NOW) as url, aiohttp.ClientSession() as client:
        yield World(url, statuses, client)


@pytest.mark.parametrize("path", ["/status", "/metrics", "/readyz", "/events", "/nothing"])
@pytest.mark.parametrize("shown", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"])
async def test_without_the_token_nothing_is_told(locked: World, path: str, shown: str) -> None:
    code, body, response = await locked.get(path, **({"Authorization": shown} if shown else {}))
    assert code == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert "orders-cdc" not in body
    assert TOKEN not in body


async def test_with_the_token_everything_is(locked: World) -> None:
    for path in ("/status", "/metrics", "/readyz"):
        assert (await locked.get(path, Authorization=f"Bearer {TOKEN}"))[0] == 200
        assert (await locked.get(path, Authorization=f"bearer {TOKEN}"))[0] == 200
    assert await read_events(locked, ("tick",), Authorization=f"Bearer {TOKEN}")


@pytest.mark.parametrize("path", ["/healthz", "/", "/page.js"])
async def test_whether_it_lives_and_the_empty_page_need_no_token(locked: World, path: str) -> None:
    code, body, _ = await locked.get(path)
    assert code == 200
    assert "orders-cdc" not in body


async def test_serving_beyond_this_machine_without_a_token_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async with serve("127.0.0.1:0", list), serve("0.0.0.0:0", list, token=TOKEN):
        assert caplog.text == ""
    async with serve("0.0.0.0:0", list):
        assert "http.token" in caplog.text


# what nobody may use up ----------------------------------------------------------------------------------------------------------------


async def raw(url: str, *parts: bytes, within: float = 5.0) -> bytes:
    """What a connection that sends these bytes gets until it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(within):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_a_request_that_never_becomes_whole_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDLE", 0.2)
    async with serve("127.0.0.1:0", list) as url:
        assert await raw(url, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"X-Slow: a") == b""
        assert await raw(url) == b""


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 10_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 1000 + b"\r\n",
    ],
    ids=["path", "header", "headers"],
)
async def test_an_oversized_request_is_refused(world: World, request_: bytes) -> None:
    answer = await raw(world.url, request_)
    assert answer.startswith(b"HTTP/1.0 400") or answer.startswith(b"HTTP/1.1 400"), answer[:80]


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CONNECTIONS", 4)
    async with serve("127.0.0.1:0", list) as url:
        port = int(url.rpartition(":")[2])
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        assert await raw(url) == b""
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        async with aiohttp.ClientSession() as client, client.get(url + "/healthz") as response:
            assert response.status == 200

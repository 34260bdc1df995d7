"""The http server: what it answers, and to whom."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from dsqlcdc.core.telemetry import Status
from dsqlcdc.errors import Misconfigured
from dsqlcdc.hosts.http import serve
from dsqlcdc.hosts.readiness import Readiness

from .samples import NOW, status, view


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


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/status", "/nothing"])
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
    assert json.loads(body)["pages"] == ["/healthz", "/readyz", "/metrics", "/status"]


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

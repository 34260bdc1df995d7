"""The node itself: what all tests of this folder stand on."""

from __future__ import annotations

import aiohttp
import pytest

from .node import VERSION, Node

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]


async def ask(method: str, url: str, body: object = None) -> tuple[int, dict[str, object]]:
    async with aiohttp.ClientSession() as session, session.request(method, url, json=body) as answer:
        return answer.status, await answer.json()


async def test_it_is_a_real_opensearch_of_the_version_that_is_tested(node: Node) -> None:
    status, said = await ask("GET", node.url)
    version = said["version"]
    assert status == 200
    assert isinstance(version, dict)
    assert (version["distribution"], version["number"]) == ("opensearch", VERSION)


async def test_what_it_acknowledged_survives_a_kill(node: Node) -> None:
    index = {"settings": {"number_of_replicas": 0}}
    assert (await ask("PUT", f"{node.url}/kept", index))[0] == 200
    assert (await ask("PUT", f"{node.url}/kept/_doc/1?version=7&version_type=external", {"a": 1}))[0] == 201
    before = node.url
    node.kill()
    assert node.start().url == before
    status, found = await ask("GET", f"{node.url}/kept/_doc/1")
    assert (status, found["_version"], found["_source"]) == (200, 7, {"a": 1})

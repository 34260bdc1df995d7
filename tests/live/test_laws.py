"""The laws that the sink stands on, put to a real node. The engine model is put to the same ones: so it is held to the node."""

from __future__ import annotations

import aiohttp
import pytest

from ..sinks.opensearch.laws import asking
from ..sinks.opensearch.laws_of_scripts import LAWS
from .node import Node

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]


@pytest.mark.parametrize("name", sorted(LAWS))
async def test_the_node_keeps_the_law(name: str, node: Node) -> None:
    async with aiohttp.ClientSession() as session:
        await LAWS[name](asking(session, node.url), f"law-{sorted(LAWS).index(name)}")

"""The index sink's probe, as the doctor asks it: nothing is left behind, and a cluster that is away is said."""

from __future__ import annotations

import asyncio

import pytest

from dsqlcdc.contract import Unavailable
from dsqlcdc.testing.opensearch import FakeOpenSearch

from .replica import Direct, sink


async def test_a_probe_leaves_nothing_behind_and_says_when_no_node_answers() -> None:
    engine = FakeOpenSearch(lambda: asyncio.get_running_loop().time())
    transport = Direct(engine)
    async with sink(transport) as opened:
        assert await opened.probe() is True
        assert engine.indexes == {}
        transport.away = True
        with pytest.raises(Unavailable, match="E160"):
            await opened.probe()

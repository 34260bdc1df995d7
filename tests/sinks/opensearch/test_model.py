"""The engine model keeps the laws that a real node keeps: the live tests put the same ones to it."""

from __future__ import annotations

import time

import aiohttp
import pytest

from dsqlcdc.testing.opensearch import FakeOpenSearch, serving
from tests.sinks.opensearch.laws import asking
from tests.sinks.opensearch.laws_of_scripts import LAWS


@pytest.mark.parametrize("name", sorted(LAWS))
async def test_the_model_keeps_the_law(name: str) -> None:
    async with serving(FakeOpenSearch(time.monotonic)) as url, aiohttp.ClientSession() as session:
        await LAWS[name](asking(session, url), f"law-{sorted(LAWS).index(name)}")

"""An embedded AWS for each test, and clients that talk to it as users' programs do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession

from dsqlcdc.aws import Aws
from dsqlcdc.local import Local

from ..clients import LOADER


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "local")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def aws(request: pytest.FixtureRequest) -> AsyncIterator[Local]:
    """Without read limits, and cutting rows early; a test changes that by parametrizing `aws` with Local's arguments."""
    options: dict[str, Any] = {"read_throttle": False, "oversize": 20_000} | getattr(request, "param", {})
    async with Local(**options) as local:
        yield local


@pytest.fixture
def account(aws: Local) -> Aws:
    return Aws(region="us-east-1", endpoint_url=aws.endpoint)


class Clients:
    """call.kinesis, call.dsql, …: aiobotocore clients that do not retry."""

    def __init__(self, endpoint: str, services: dict[str, Any]) -> None:
        self.endpoint, self._services = endpoint, services

    def __getattr__(self, service: str) -> Any:
        return self._services[service]


@pytest.fixture
def services(request: pytest.FixtureRequest) -> list[str]:
    """Which clients the module's tests use: its SERVICES."""
    return list(getattr(request.module, "SERVICES", ["kinesis"]))


@pytest.fixture
async def call(aws: Local, services: list[str]) -> AsyncIterator[Clients]:
    session = AioSession()
    session.register_component("data_loader", LOADER)
    config = AioConfig(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, read_timeout=5)
    async with AsyncExitStack() as stack:
        made: dict[str, Any] = {}
        for name in services:
            opening = session.create_client(name, region_name="us-east-1", endpoint_url=aws.endpoint, config=config)
            made[name] = await stack.enter_async_context(opening)
        yield Clients(aws.endpoint, made)

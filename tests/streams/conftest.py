"""An embedded AWS for each test, what is desired of it, and the stream manager's clients."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dsqlcdc.aws import Aws
from dsqlcdc.local import Local
from dsqlcdc.streams.clients import Clients, open_clients
from dsqlcdc.streams.desired import Desired, Target

from ..clients import one_loader
from .manager import Manager


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "local")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("botocore.loaders.create_loader", one_loader)


@pytest.fixture
async def aws() -> AsyncIterator[Local]:
    async with Local(read_throttle=False, delay=0.04) as local:
        yield local


@pytest.fixture
def account(aws: Local) -> Aws:
    return Aws(region="us-east-1", endpoint_url=aws.endpoint)


@pytest.fixture
def cluster(aws: Local) -> str:
    """An ACTIVE cluster."""
    made = aws.dsql.create_cluster({"deletionProtectionEnabled": False})
    made.activate()
    return made.id


@pytest.fixture
def desired(cluster: str) -> Desired:
    return Desired(pipeline="orders-cdc", cluster=cluster, target=Target(name="orders-cdc"), role="orders-cdc-dsql", tags={"team": "shop"})


@pytest.fixture
async def clients(account: Aws, desired: Desired) -> AsyncIterator[Clients]:
    async with open_clients(account, desired, deadline=10.0) as opened:
        yield opened


@pytest.fixture
def manager(aws: Local, clients: Clients, desired: Desired) -> Manager:
    return Manager(aws, clients, desired)

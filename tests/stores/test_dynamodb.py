"""Checkpoints in DynamoDB: the contract against the embedded AWS, and what the table's own service answers."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from dsqlcdc.aws import Aws
from dsqlcdc.core.ports import Checkpoint, Commit, Gap, Name
from dsqlcdc.core.records import Mark, Position
from dsqlcdc.errors import Held, Misconfigured
from dsqlcdc.stores.dynamodb_checkpoints import DynamoCheckpoints
from dsqlcdc.stores.dynamodb_items import HEAD, DynamoItems, Item
from dsqlcdc.testing import virtual
from dsqlcdc.testing.local import LocalAws
from dsqlcdc.testing.stores import check_checkpoint_store

from .items import FakeItems, Table

NAME = Name("p", "lake", "orders@1")
MARK = Mark(Position("after", "495", 7.0), 8.0)


@pytest.fixture
def aws(local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    for name, value in local_aws.environ.items():
        monkeypatch.setenv(name, value)
    yield Aws()


async def test_dynamodb_checkpoints_keep_the_contract(aws: Aws) -> None:
    await check_checkpoint_store(lambda: DynamoCheckpoints("state", aws, create=True, beat=0.05))


async def test_checkpoints_cut_into_items_of_their_own_keep_the_contract(aws: Aws) -> None:
    await check_checkpoint_store(lambda: DynamoCheckpoints("state", aws, create=True, beat=0.05, room=250))


async def test_checkpoints_over_the_narrow_port_keep_the_contract() -> None:
    table = Table()
    await check_checkpoint_store(lambda: DynamoCheckpoints("", items=FakeItems(table), beat=0.01))

"""The few things that checkpoints ask of DynamoDB: items read, written over what was seen, and a table made on request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from dsqlcdc.aws import Aws, client, error_code, errors, translate
from dsqlcdc.errors import Fault, Misconfigured, Unavailable

log = logging.getLogger("dsqlcdc.dynamodb")

HEAD = "head"
_OTHERS = "dsqlcdc config show CONFIG, and give state.table a table of its own"
TOGETHER = 100
"""Items of one transaction, by DynamoDB's limit."""
_CREATING = 120  # looks at a table that is being made, a second apart
_NAMES = {"#t": "token", "#v": "version"}
_STANDS = "#t = :t AND #v = :v"


class Item(msgspec.Struct, frozen=True):
    """One item of the table. `token` and `version` tell one writing of it from every other."""

    pk: str
    sk: str
    token: str = ""
    version: int = 0
    body: bytes = b""


class Items(Protocol):
    """A table of items. Every method raises Unavailable when it cannot be asked just now (a write may have happened, and may happen yet),
    Misconfigured when never."""

    async def get(self, pk: str, sk: str, *, consistent: bool = True) -> Item | None: ...

    async def query(self, pk: str, prefix: str) -> Sequence[Item]:
        """All items of a partition whose sort key begins so, in its order."""
        ...

    async def heads(self) -> Sequence[Item]:
        """Every item whose sort key is HEAD."""
        ...

    async def put(self, item: Item) -> None:
        """Write, whatever stands there."""
        ...

    async def create(self, item: Item) -> bool:
        """Write where nothing stands; False where something does."""
        ...

    async def replace(self, item: Item, over: Item) -> bool:
        """Write where `over` still stands, told by token and version; False where it does not."""
        ...

    async def together(self, writes: Sequence[tuple[Item, Item | None]]) -> bool:
        """Replace items, or create those with None: all of them or none. False where one of the conditions does not hold. At most
        TOGETHER items."""
        ...

    async def delete(self, pk: str, sk: str) -> None: ...

    async def close(self) -> None: ...


class DynamoItems:
    """Items in the table `table`, by a client that is opened at the first call. With `create` the first write makes a table that is
    missing (on-demand billing), and until then it reads as empty."""

    def __init__(self, table: str, aws: Aws, *, create: bool) -> None:
        self.table = table
        self._aws, self._create = aws, create
        self._opening = asyncio.Lock()
        self._context: AbstractAsyncContextManager[Any] | None = None
        self._opened: Any = None

    async def get(self, pk: str, sk: str, *, consistent: bool = True) -> Item | None:
        client = await self._client()
        try:
            answer = await client.get_item(TableName=self.table, Key=_key(pk, sk), ConsistentRead=consistent)
        except errors() as error:
            self._missing(error, "read the state")
            return None
        return _item(answer["Item"]) if "Item" in answer else None

    async def query(self, pk: str, prefix: str) -> Sequence[Item]:
        client, found, start = await self._client(), list[Item](), dict[str, Any]()
        while True:
            try:
                answer = await client.query(
                    TableName=self.table,
                    ConsistentRead=True,
                    KeyConditionExpression="pk = :p AND begins_with(sk, :s)",
                    ExpressionAttributeValues={":p": {"S": pk}, ":s": {"S": prefix}},
                    **start,
                )
            except errors() as error:
                self._missing(error, "read the state")
                return found
            found += [_item(item) for item in answer["Items"]]
            if "LastEvaluatedKey" not in answer:
                return found
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    async def heads(self) -> Sequence[Item]:
        client, found, start = await self._client(), list[Item](), dict[str, Any]()
        while True:
            try:
                answer = await client.scan(
                    TableName=self.table,
                    ConsistentRead=True,
                    FilterExpression="sk = :s",
                    ExpressionAttributeValues={":s": {"S": HEAD}},
                    **start,
                )
            except errors() as error:
                self._missing(error, "list what is in the state")
                return found
            found += [_item(item) for item in answer["Items"]]
            if "LastEvaluatedKey" not in answer:
                return found
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    async def put(self, item: Item) -> None:
        await self._put(item)

    async def create(self, item: Item) -> bool:
        return await self._put(item, **_condition(None))

    async def replace(self, item: Item, over: Item) -> bool:
        return await self._put(item, **_condition(over))

    async def together(self, writes: Sequence[tuple[Item, Item | None]]) -> bool:
        client = await self._client()
        puts = [{"Put": {"TableName": self.table, "Item": _written(item), **_condition(over)}} for item, over in writes]
        try:
            await client.transact_write_items(TransactItems=puts)
        except errors() as error:
            if error_code(error) == "ConditionalCheckFailed":
                return False
            raise self._fault(error, "write the state") from error
        return True

    async def may_write(self) -> None:
        """See, for `dsqlcdc doctor`, whether items may be written: by replacing one that is not there, which DynamoDB refuses after it has
        looked at the right to. A table that is missing is no fault here."""
        client = await self._client()
        try:
            await client.put_item(TableName=self.table, Item=_key("doctor", "probe"), ConditionExpression="attribute_exists(pk)")
        except errors() as error:
            if error_code(error) not in ("ConditionalCheckFailedException", "ResourceNotFoundException"):
                raise self._fault(error, "write the state") from error

    async def delete(self, pk: str, sk: str) -> None:
        client = await self._client()
        try:
            await client.delete_item(TableName=self.table, Key=_key(pk, sk))
        except errors() as error:
            raise self._fault(error, "delete from the state") from error

    async def exists(self) -> bool:
        """Is there such a table? Asks for read rights only."""
        client = await self._client()
        try:
            await client.describe_table(TableName=self.table)
        except errors() as error:
            if error_code(error) == "ResourceNotFoundException":
                return False
            raise self._fault(error, "look at the table") from error
        return True

    async def make(self) -> None:
        """Make the table and wait until it can be used; one that is there is left as it is."""
        await self._make_table(await self._client())

    async def close(self) -> None:
        """Close the connections; a later call opens them anew."""
        async with self._opening:
            context, self._context, self._opened = self._context, None, None
            if context is not None:
                await context.__aexit__(None, None, None)

    async def _client(self) -> Any:
        async with self._opening:
            if self._context is None:
                context = client("dynamodb", self._aws, connect_timeout=3, read_timeout=10)
                self._opened = await context.__aenter__()
                self._context = context
            return self._opened

    async def _put(self, item: Item, **condition: Any) -> bool:
        client = await self._client()
        for made in (False, True):
            try:
                await client.put_item(TableName=self.table, Item=_written(item), **condition)
                return True
            except errors() as error:
                code = error_code(error)
                if code == "ConditionalCheckFailedException":
                    return False
                if code != "ResourceNotFoundException" or not self._create or made:
                    raise self._fault(error, "write the state") from error
                await self._make_table(client)
        return False

    async def _make_table(self, client: Any) -> None:
        log.info("creating the DynamoDB table %s (on-demand)", self.table)
        try:
            await client.create_table(
                TableName=self.table,
                AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
                KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
                BillingMode="PAY_PER_REQUEST",
            )
        except errors() as error:
            if error_code(error) != "ResourceInUseException":  # another process makes it
                raise self._fault(error, "create the table") from error
        for _ in range(_CREATING):
            try:
                answer = await client.describe_table(TableName=self.table)
                if answer["Table"]["TableStatus"] == "ACTIVE":
                    return
            except errors() as error:
                if error_code(error) != "ResourceNotFoundException":  # not known everywhere yet
                    raise self._fault(error, "look at the table") from error
            await asyncio.sleep(1.0)
        raise Unavailable("the table is not ready yet", where=self._where, why=f"not ACTIVE within {_CREATING} s", code="E120")

    def _missing(self, error: Exception, doing: str) -> None:
        """Nothing where the table may be missing: it is made by the first write. Raises the fault otherwise."""
        if error_code(error) != "ResourceNotFoundException" or not self._create:
            raise self._fault(error, doing) from error

    def _fault(self, error: Exception, doing: str) -> Fault:
        fault = translate(error, doing=doing, where=self._where)
        if error_code(error) == "ResourceNotFoundException" and not self._create:
            why = "the table does not exist (ResourceNotFoundException); write create: true in the block `state` to have it made"
            return Misconfigured(fault.what, where=self._where, why=why, run="dsqlcdc config show CONFIG", code=fault.code)
        return fault

    @property
    def _where(self) -> str:
        return f"DynamoDB table {self.table}"


def _key(pk: str, sk: str) -> dict[str, Any]:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def _written(item: Item) -> dict[str, Any]:
    return {**_key(item.pk, item.sk), "token": {"S": item.token}, "version": {"N": str(item.version)}, "body": {"B": item.body}}


def _condition(over: Item | None) -> dict[str, Any]:
    """That `over` still stands, or that nothing does."""
    if over is None:
        return {"ConditionExpression": "attribute_not_exists(pk)"}
    seen = {":t": {"S": over.token}, ":v": {"N": str(over.version)}}
    return {"ConditionExpression": _STANDS, "ExpressionAttributeNames": _NAMES, "ExpressionAttributeValues": seen}


def _item(item: dict[str, Any]) -> Item:
    """Raises Misconfigured (E203) for an item that none of us wrote."""
    try:
        return Item(item["pk"]["S"], item["sk"]["S"], item["token"]["S"], int(item["version"]["N"]), bytes(item["body"]["B"]))
    except (KeyError, ValueError) as error:
        where = str(item.get("pk", {}).get("S", ""))
        raise Misconfigured(
            "The table holds what is no state of dsqlcdc", where=where, why=repr(error), run=_OTHERS, code="E203"
        ) from error

"""As much of DynamoDB as Bento's input needs to hold leases on shards: one table, keyed by (StreamID, ShardID)."""

from __future__ import annotations

from typing import Any

Item = dict[str, Any]
REFUSED = {"__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException", "message": "The conditional request failed"}


class Leases:
    """Knows the expressions that Bento writes: `SET A = :a, …`, `A = :a`, `attribute_not_exists(A)`."""

    def __init__(self) -> None:
        self._items: dict[tuple[str, str], Item] = {}

    def answer(self, operation: str, asked: Item) -> tuple[int, Item]:
        """Status and body."""
        if operation in ("DescribeTable", "CreateTable"):
            return 200, {"Table": {"TableName": asked["TableName"], "TableStatus": "ACTIVE"}}
        if operation == "Query":
            return 200, {"Items": list(self._items.values()), "Count": len(self._items)}
        key: Item = asked.get("Key") or {name: asked["Item"][name] for name in ("StreamID", "ShardID")}
        place = key["StreamID"]["S"], key["ShardID"]["S"]
        old = self._items.get(place, {})
        if operation == "GetItem":
            return 200, {"Item": old} if old else {}
        if not self._holds(asked, old):
            return 400, REFUSED
        if operation == "DeleteItem":
            self._items.pop(place, None)
            return 200, {}
        if operation == "PutItem":
            self._items[place] = asked["Item"]
            return 200, {}
        new = {**old, **key}
        for part in asked["UpdateExpression"].removeprefix("SET ").split(","):
            name, _, value = part.split()
            new[name] = asked["ExpressionAttributeValues"][value]
        self._items[place] = new
        return 200, {"Attributes": old or new}

    @staticmethod
    def _holds(asked: Item, old: Item) -> bool:
        condition = asked.get("ConditionExpression", "")
        if not condition:
            return True
        if condition.startswith("attribute_not_exists("):
            return condition[21:-1] not in old
        name, _, value = condition.split()
        return bool(old.get(name) == asked["ExpressionAttributeValues"][value])

"""What there is in an account and Region to choose from: Kinesis streams and DSQL clusters."""

from __future__ import annotations

from collections.abc import Sequence

from dsqlcdc.aws import Aws, client, errors, translate

__all__ = ["clusters", "streams"]


async def streams(aws: Aws) -> Sequence[str]:
    """The names of the Kinesis data streams, sorted. Raises Misconfigured, Unavailable."""
    found: list[str] = []
    async with client("kinesis", aws) as kinesis:
        more: dict[str, str] = {}
        while True:
            try:
                answer = await kinesis.list_streams(**more)
            except errors() as error:
                raise translate(error, doing="list the Kinesis streams", where="kinesis", resource="*") from error
            found += answer["StreamNames"]
            if not answer.get("HasMoreStreams") or not found:
                return sorted(found)
            more = {"ExclusiveStartStreamName": found[-1]}


async def clusters(aws: Aws) -> Sequence[str]:
    """The identifiers of the DSQL clusters, sorted. Raises Misconfigured, Unavailable."""
    found: list[str] = []
    async with client("dsql", aws) as dsql:
        more: dict[str, str] = {}
        while True:
            try:
                answer = await dsql.list_clusters(**more)
            except errors() as error:
                raise translate(error, doing="list the DSQL clusters", where="dsql", resource="*") from error
            found += [cluster["identifier"] for cluster in answer["clusters"]]
            if not answer.get("nextToken"):
                return sorted(found)
            more = {"nextToken": answer["nextToken"]}

"""The HTTP control under /_dsqlcdc/: commit, ask for the truth, inject faults. The package's docstring lists the calls."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web

from dsqlcdc.local.causes import cause
from dsqlcdc.local.cdc import CdcStream
from dsqlcdc.local.faults import Fault
from dsqlcdc.local.generator import Commit
from dsqlcdc.local.orders import Advance, Bucket, Cause, CdcState, Pipe, Raw, Rules, Shards, Throttle
from dsqlcdc.local.refusal import Refusal
from dsqlcdc.local.region import Region
from dsqlcdc.local.rights import Deny

PAGE = 1000
_T = TypeVar("_T")


class Control:
    """The calls. A mistake in what was asked is answered with 400 and {"error": …}."""

    def __init__(self, region: Region) -> None:
        self._region = region

    def add_to(self, app: web.Application) -> None:
        calls: dict[str, Callable[[bytes], Awaitable[Any]]] = {
            "commit": self._commit,
            "pipe": self._pipe,
            "reset": self._reset,
            "fault": self._fault,
            "faults/clear": self._clear,
            "throttle": self._throttle,
            "clock": self._clock,
            "iterators/expire": self._expire,
            "trim": self._trim,
            "empty-reads": self._empty_reads,
            "record": self._record,
            "bucket": self._bucket,
            "cdc": self._cdc,
            "cause": self._cause,
            "rules": self._rules,
            "deny": self._deny,
        }
        for name, call in calls.items():
            app.router.add_post(f"/_dsqlcdc/{name}", _answering(call))
        app.router.add_get("/_dsqlcdc/health", self._health)
        app.router.add_get("/_dsqlcdc/faults", self._faults)
        app.router.add_get("/_dsqlcdc/truth/changes", _guarded(self._changes))
        app.router.add_get("/_dsqlcdc/truth/state", _guarded(self._state))

    async def _health(self, _request: web.Request) -> web.Response:
        return _json(
            {"now": self._region.clock.now(), "streams": self._region.kinesis.names(), "clusters": list(self._region.dsql.clusters)}
        )

    async def _faults(self, _request: web.Request) -> web.Response:
        return _json({"hits": self._region.faults.hits, "waiting": self._region.faults.waiting()})

    async def _commit(self, body: bytes) -> Any:
        return await self._region.commit(_read(body, Commit))

    async def _pipe(self, body: bytes) -> Any:
        given = _read(body, Pipe)
        return self._region.pipe(given.stream, given.shards, given.max_record_kib)

    async def _reset(self, _body: bytes) -> Any:
        await self._region.reset()
        return {}

    async def _fault(self, body: bytes) -> Any:
        self._region.faults.add(_read(body, Fault))
        return {}

    async def _clear(self, _body: bytes) -> Any:
        self._region.faults.clear()
        self._region.denials.clear()
        return {}

    async def _throttle(self, body: bytes) -> Any:
        given, kinesis = _read(body, Throttle), self._region.kinesis
        kinesis.read_throttle = kinesis.read_throttle if given.reads is None else given.reads
        kinesis.write_throttle = kinesis.write_throttle if given.writes is None else given.writes
        kinesis.latest_lag = kinesis.latest_lag if given.latest_lag is None else given.latest_lag
        if given.demand is not None:
            kinesis.demand(kinesis.stream(given.stream).name, given.demand)
        if given.refuse_reads:
            kinesis.throttle_reads(given.shard, given.refuse_reads)
        return {"reads": kinesis.read_throttle, "writes": kinesis.write_throttle}

    async def _clock(self, body: bytes) -> Any:
        self._region.advance(_read(body, Advance).seconds)
        return {"now": self._region.clock.now()}

    async def _expire(self, _body: bytes) -> Any:
        self._region.kinesis.expire_iterators()
        return {}

    async def _trim(self, body: bytes) -> Any:
        given = _read(body, Shards)
        stream = self._region.kinesis.stream(given.stream)
        chosen = [stream.shard(given.shard)] if given.shard else list(stream.shards.values())
        if given.until:
            if not given.shard:
                raise ValueError("`until` is a sequence number of one shard: name it")
            return {"trimmed": chosen[0].trim(chosen[0].number(given.until, after=True))}
        return {"trimmed": sum(shard.trim_before(given.before) if given.before else shard.trim(shard.next) for shard in chosen)}

    async def _empty_reads(self, body: bytes) -> Any:
        given = _read(body, Shards)
        stream = self._region.kinesis.stream(given.stream)
        for shard in [stream.shard(given.shard)] if given.shard else stream.open_shards():
            shard.empty_reads = given.times
        return {}

    async def _record(self, body: bytes) -> Any:
        given = _read(body, Raw)
        stream = self._region.kinesis.stream(given.stream)
        explicit = str(stream.shard(given.shard).start) if given.shard else None
        data = base64.b64decode(given.data, validate=True)
        done = [self._region.kinesis.put_bytes(stream, data, given.partition_key, explicit) for _ in range(given.copies)]
        return {"records": [{"shard": one[0], "sequence": one[1]} for one in done if one is not None]}

    async def _bucket(self, body: bytes) -> Any:
        given = _read(body, Bucket)
        return {"done": await self._region.others.hide_bucket(given.name, given.gone)}

    async def _cdc(self, body: bytes) -> Any:
        given, dsql = _read(body, CdcState), self._region.dsql
        cluster = dsql.cluster(given.cluster)
        if given.status is not None:
            cluster.asleep = "" if given.status == "ACTIVE" else given.status
        if not given.stream:
            return {"status": cluster.status}
        stream = dsql.stream(given.cluster, given.stream)
        if given.impair is not None:
            stream.impair(given.impair)
        if given.fail is not None:
            stream.fail(given.fail)
        if given.late is not None:
            stream.late = given.late
        dsql.look()
        return _told(stream)

    async def _cause(self, body: bytes) -> Any:
        given = _read(body, Cause)
        stream = self._region.dsql.stream(given.cluster, given.stream)
        await cause(self._region, stream, given.reason)
        return _told(stream)

    async def _rules(self, body: bytes) -> Any:
        given, dsql = _read(body, Rules), self._region.dsql
        changed = {name: value for name, value in msgspec.structs.asdict(given).items() if value is not None}
        for name, value in changed.items():
            setattr(dsql.pace if hasattr(dsql.pace, name) else dsql, name, value)
        ours = {"delay": dsql.delay, "role_delay": dsql.role_delay, "role_refusals": dsql.role_refusals}
        return msgspec.structs.asdict(dsql.pace) | ours

    async def _deny(self, body: bytes) -> Any:
        self._region.denials.add(_read(body, Deny))
        return {}

    async def _changes(self, request: web.Request) -> web.StreamResponse:
        generator = self._region.generator(request.query.get("cluster", ""))
        start, limit = int(request.query.get("from", "0")), int(request.query.get("limit", "0"))
        stop = min(start + limit, len(generator.changes)) if limit else len(generator.changes)

        async def lines() -> AsyncIterator[bytes]:
            for first in range(start, stop, PAGE):
                yield b"".join(msgspec.json.encode(change) + b"\n" for change in generator.changes[first : min(first + PAGE, stop)])

        return await _stream(request, lines())

    async def _state(self, request: web.Request) -> web.StreamResponse:
        generator = self._region.generator(request.query.get("cluster", ""))
        table = request.query.get("table", "")

        async def lines() -> AsyncIterator[bytes]:
            for (name, _), change in generator.state().items():
                if table in ("", name):
                    yield msgspec.json.encode(change) + b"\n"

        return await _stream(request, lines())


def _told(stream: CdcStream) -> dict[str, Any]:
    return {"status": stream.status, "reason": stream.error, "waiting": stream.waiting, "lag": stream.lag}


class _Lines(Protocol):
    def __aiter__(self) -> AsyncIterator[bytes]: ...


async def _stream(request: web.Request, lines: _Lines) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    async for line in lines:
        await response.write(line)
    await response.write_eof()
    return response


_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _answering(call: Callable[[bytes], Awaitable[Any]]) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return _json(await call(await request.read()))

    return _guarded(handle)


def _guarded(handler: _Handler) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except (ValueError, Refusal) as error:
            return _json({"error": str(error)}, 400)

    return handle


def _read(body: bytes, kind: type[_T]) -> _T:
    return msgspec.json.decode(body or b"{}", type=kind)


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")

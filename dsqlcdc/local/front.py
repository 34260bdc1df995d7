"""The one port: an HTTP server that gives each request to its service and plays the faults that were injected."""

from __future__ import annotations

import asyncio
import time
import uuid
from email.utils import formatdate

import msgspec
from aiohttp import web

from dsqlcdc.local.calls import operation_of, service_of
from dsqlcdc.local.clock import Clock
from dsqlcdc.local.dsql import Dsql
from dsqlcdc.local.faults import Fault, Faults
from dsqlcdc.local.kinesis_api import KinesisApi
from dsqlcdc.local.kms import by_id
from dsqlcdc.local.others import Others, Reply
from dsqlcdc.local.refusal import Refusal, injected, render
from dsqlcdc.local.rights import Call, Denials

_NOT_PASSED = frozenset({"content-length", "transfer-encoding", "connection", "date", "server"})


class Front:
    """`handle` answers every AWS call."""

    def __init__(self, clock: Clock, kinesis: KinesisApi, dsql: Dsql, others: Others, faults: Faults, denials: Denials) -> None:
        self._clock, self._kinesis, self._dsql, self._others = clock, kinesis, dsql, others
        self._faults, self._denials = faults, denials

    async def handle(self, request: web.Request) -> web.StreamResponse:
        life = self._clock.life
        body = await request.read()
        service = service_of(request.headers, request.query)
        operation = operation_of(service, request.method, request.path, request.query, request.headers, body)
        where = request.path
        if operation == "GetRecords":
            where += self._kinesis.shard_of(body)
        fault = self._faults.take(service, operation, where)
        if fault is not None and fault.kind == "reset":
            return _break(request)
        if fault is not None and fault.kind == "hang":
            await asyncio.sleep(fault.seconds)
        if life != self._clock.life:  # a reset came in between: what was asked for before it must not be done after it
            return _break(request)
        reply = await self._answer(request, service, operation, body, fault)
        if fault is not None and fault.kind == "lost":
            return _break(request)
        headers = [(name, value) for name, value in reply.headers if name.lower() not in _NOT_PASSED]
        # moto dates its objects by the wall clock: S3's Date is of the same
        headers.append(("Date", formatdate(time.time() if service == "s3" else self._clock.now(), usegmt=True)))
        if fault is not None and fault.kind in ("cut", "slow"):
            return await _send_in_part(request, reply, headers, fault)
        response = web.Response(status=reply.status, body=reply.body)
        for name, value in headers:
            response.headers[name] = value
        if request.method == "HEAD":
            response.headers["Content-Length"] = next((v for n, v in reply.headers if n.lower() == "content-length"), "0")
        return response

    async def _answer(self, request: web.Request, service: str, operation: str, body: bytes, fault: Fault | None) -> Reply:
        request_id = str(uuid.uuid4())
        try:
            if fault is not None and fault.kind == "error":
                raise injected(service, fault.code, fault.status, fault.message)
            path = request.rel_url.raw_path
            names = (self._kinesis.stream_of, self._kinesis.key_of, self._dsql.key_of)
            self._denials.check(Call(service, operation, path, body, self._dsql.region, *names))
            self._dsql.look(idle=service == "dsql")
            if service == "kinesis":
                headers = [("Content-Type", "application/x-amz-json-1.1"), ("x-amzn-RequestId", request_id)]
                return Reply(200, headers, self._kinesis.call(operation, body))
            if service == "dsql":
                out = self._dsql.call(request.method, path, request.query, body)
                return Reply(200, [("Content-Type", "application/json"), ("x-amzn-RequestId", request_id)], msgspec.json.encode(out))
            if service == "kms":
                body = by_id(operation, body)
            if service == "monitoring":
                await self._others.measure(self._dsql.metrics(), self._clock.now())
            return await self._others.call(request.method, request.raw_path, request.headers, body)
        except Refusal as refusal:
            text, extra = render(refusal, service, request_id)
            return Reply(refusal.status, list(extra.items()), text)


def _break(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _send_in_part(request: web.Request, reply: Reply, headers: list[tuple[str, str]], fault: Fault) -> web.StreamResponse:
    """Half the body and a broken connection, or the whole body in ten pieces over the fault's seconds."""
    response = web.StreamResponse(status=reply.status, headers=dict(headers))
    response.content_length = len(reply.body)
    await response.prepare(request)
    if fault.kind == "cut":
        await response.write(reply.body[: max(1, len(reply.body) // 2)])
        return _break(request)
    step = max(1, -(-len(reply.body) // 10))
    for start in range(0, len(reply.body), step):
        await response.write(reply.body[start : start + step])
        await asyncio.sleep(fault.seconds / 10)
    await response.write_eof()
    return response

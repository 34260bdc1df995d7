"""S3, DynamoDB, IAM, STS and KMS: moto's, called in this process. One call at a time, so that a conditional write is atomic."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from dsqlcdc.local.reach import Key, Role
from dsqlcdc.local.streams import ACCOUNT


class Reply(msgspec.Struct, frozen=True):
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Metric(msgspec.Struct, frozen=True):
    """One value of a metric of AWS/AuroraDSQL, by its dimensions."""

    name: str
    value: float
    dimensions: Mapping[str, str]


class Others:
    """moto behind an awaitable `call`. It is loaded at the first call: Kinesis and DSQL alone start at once.

    What moto holds belongs to the process: two embedded AWS in one process have the same buckets and roles.
    """

    def __init__(self, region: str = "us-east-1") -> None:
        self._region = region
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dsqlcdc-moto")
        self._app: Callable[[dict[str, Any], Any], Any] | None = None
        self._put_aside: dict[str, Any] = {}

    async def call(self, method: str, raw_path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """One HTTP request in, its whole reply out."""
        reply: Reply = await self._run(self._call, method, raw_path, list(headers.items()), body)
        return reply

    async def reset(self) -> None:
        """Forget everything, when there is anything."""
        self._put_aside.clear()
        if self._app is not None:
            await self.call("POST", "/moto-api/reset", {"Host": "localhost"}, b"")

    async def hide_bucket(self, name: str, gone: bool) -> bool:
        """Make a bucket vanish with its objects, or bring it back; False where there is none of this name."""
        done: bool = await self._run(self._hide_bucket, name, gone)
        return done

    def role(self, arn: str) -> Role | None:
        """A role with its trust policy and the policies it has, inline and attached."""
        if self._app is None:
            return None
        from moto.backends import get_backend

        backend = get_backend("iam")[ACCOUNT]["aws"]
        roles = backend.roles
        role = next((role for role in list(roles.values()) if role.arn == arn), None)
        if role is None:
            return None
        attached = {policy.arn: policy for policy in list(role.managed_policies.values())}
        current = [version.document for policy in attached.values() for version in policy.versions if version.is_default]
        documents = (*role.policies.values(), *current)
        bound = backend.managed_policies.get(role.permissions_boundary_arn) if role.permissions_boundary_arn else None
        boundary = next((version.document for version in bound.versions if version.is_default), "") if bound is not None else ""
        trust = role.assume_role_policy_document
        return Role(arn, trust, documents, inline=tuple(role.policies), attached=tuple(attached), boundary=boundary)

    def key(self, key_id: str) -> Key | None:
        """A KMS key of the Region, by any of its names."""
        if self._app is None:
            return None
        from moto.backends import get_backend

        backend = get_backend("kms")[ACCOUNT][self._region]
        name = key_id.rpartition(":")[2].removeprefix("key/")
        keys = list(backend.keys.values())
        found = next((key for key in keys if name == key.id or name in key.aliases), None)
        return None if found is None else Key(found.arn, found.key_state, found.policy)

    async def measure(self, metrics: Sequence[Metric], now: float) -> None:
        """CloudWatch shows these of DSQL, for the minute of `now`, and none that were given before."""
        await self._run(self._measure, metrics, now)

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.shutdown)

    def _measure(self, metrics: Sequence[Metric], now: float) -> None:
        from moto.backends import get_backend
        from moto.cloudwatch.models import MetricDatum

        backend: Any = get_backend("cloudwatch")[ACCOUNT][self._region]
        at = datetime.fromtimestamp(now, UTC).replace(tzinfo=None)
        backend.metric_data = [datum for datum in backend.metric_data if datum.namespace != "AWS/AuroraDSQL"]
        for metric in metrics:
            by = [{"Name": name, "Value": value} for name, value in metric.dimensions.items()]
            backend.metric_data.append(MetricDatum("AWS/AuroraDSQL", metric.name, metric.value, by, at))

    async def _run(self, work: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *given)

    def _call(self, method: str, raw_path: str, headers: list[tuple[str, str]], body: bytes) -> Reply:
        if self._app is None:
            from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

            self._app = DomainDispatcherApplication(create_backend_app)
        answer: list[Any] = []

        def start(status: str, response_headers: list[tuple[str, str]], _error: Any = None) -> Callable[[bytes], None]:
            answer[:] = [int(status.split(" ", 1)[0]), response_headers]
            return answer.append

        chunks = self._app(_environ(method, raw_path, headers, body), start)
        try:
            payload = b"".join(chunks)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()
        return Reply(answer[0], answer[1], payload)

    def _hide_bucket(self, name: str, gone: bool) -> bool:
        if self._app is None:
            return False
        from moto.backends import get_backend

        backends: Any = get_backend("s3")
        buckets, owners = backends[ACCOUNT]["aws"].buckets, backends.bucket_accounts
        if gone and name in buckets:
            self._put_aside[name] = buckets.pop(name), owners.pop(name, None)
        elif not gone and name in self._put_aside:
            buckets[name], owners[name] = self._put_aside.pop(name)
        else:
            return False
        return True


def _environ(method: str, raw_path: str, headers: list[tuple[str, str]], body: bytes) -> dict[str, Any]:
    """The request as a WSGI environment, header names with underscores kept for S3's metadata."""
    from moto.core.request import PRESERVED_HEADER_NAMES_ENVIRON_KEY

    path, _, query = raw_path.partition("?")
    kept: dict[str, str] = {}
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "RAW_URI": raw_path,
        "REQUEST_URI": raw_path,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        PRESERVED_HEADER_NAMES_ENVIRON_KEY: kept,
    }
    for name, value in headers:
        lower = name.lower()
        if lower in ("transfer-encoding", "connection", "expect", "content-length"):
            continue
        key = "CONTENT_TYPE" if lower == "content-type" else "HTTP_" + name.upper().replace("-", "_")
        environ[key] = f"{environ[key]},{value}" if key in environ else value
        if "_" in name and lower.startswith("x-amz-meta-"):
            kept[key] = name
    environ["CONTENT_LENGTH"] = str(len(body))
    return environ

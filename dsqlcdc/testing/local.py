"""The embedded AWS for tests: a server in a thread of its own, and its control calls as plain methods."""

from __future__ import annotations

import asyncio
import base64
import http.client
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import msgspec

from dsqlcdc.local import Commit, Committed, Fault, Local, Pipe, Summary


class LocalAws:
    """An embedded AWS that serves in a background thread; usable from sync and async tests, and from the subprocesses they start.

        with LocalAws() as aws:
            aws.pipe("orders-cdc", shards=4)
            aws.commit(transactions=100, duplicates=0.05)
            run_my_consumer(env={**os.environ, **aws.environ})
            assert my_rows() == {…: change.row for change in aws.state()}

    Every method is a short blocking call over loopback. `options` are those of dsqlcdc.local.Local. Raises ValueError where the server
    refuses what was asked.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._error: BaseException | None = None
        self.endpoint = ""
        self.region = str(options.get("region", "us-east-1"))

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables that lead any AWS client here."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._serve, name="dsqlcdc-local", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None:
            self._thread.join()

    def pipe(self, stream: str = "orders-cdc", shards: int = 4, max_record_kib: int = 10240) -> Pipe:
        """At once: a Kinesis stream, a cluster, an ACTIVE CDC stream."""
        asked = {"stream": stream, "shards": shards, "max_record_kib": max_record_kib}
        return msgspec.convert(self.control("pipe", **asked), Pipe)

    def commit(self, **commit: Any) -> Summary:
        """Commit transactions; the arguments are the fields of dsqlcdc.local.Commit."""
        return msgspec.convert(self.control("commit", **msgspec.to_builtins(Commit(**commit))), Summary)

    def changes(self, cluster: str = "", start: int = 0, limit: int = 0) -> list[Committed]:
        """The truth: committed changes in commit order."""
        return list(self._lines("changes", {"cluster": cluster, "from": str(start), "limit": str(limit)}))

    def state(self, cluster: str = "", table: str = "") -> list[Committed]:
        """The newest change of every row that exists, of all tables with a key or of one."""
        return list(self._lines("state", {"cluster": cluster, "table": table}))

    def fault(self, kind: Any, **fault: Any) -> None:
        """Inject a fault; the arguments are the fields of dsqlcdc.local.Fault."""
        self.control("fault", **msgspec.to_builtins(Fault(kind=kind, **fault)))

    def deny(self, action: str, resource: str = "*", **more: Any) -> None:
        """Callers lack a right from now on: "dsql:CreateStream", "iam:PassRole", "kinesis:*". `more`: fields of dsqlcdc.local.Deny."""
        self.control("deny", action=action, resource=resource, **more)

    def mend(self) -> None:
        """Take back every fault and denial."""
        self.control("faults/clear")

    def cdc(self, cluster: str, stream: str = "", **state: Any) -> dict[str, Any]:
        """A cluster's or CDC stream's status, reason, lag and how many records it holds; `state` changes it first: `status` of the cluster
        (IDLE, INACTIVE, ACTIVE), `impair` and `fail` with a statusReason code."""
        told: dict[str, Any] = self.control("cdc", cluster=cluster, stream=stream, **state)
        return told

    def cause(self, cluster: str, stream: str, reason: str) -> dict[str, Any]:
        """Bring about the real cause of a statusReason, to be mended by the AWS call that mends it; see dsqlcdc.local.causes."""
        told: dict[str, Any] = self.control("cause", cluster=cluster, stream=stream, reason=reason)
        return told

    def rules(self, **rules: Any) -> dict[str, Any]:
        """The service's ways, as they are; `rules` changes them first: retry, lag_limit, stuck, delay, role_delay, role_refusals."""
        told: dict[str, Any] = self.control("rules", **rules)
        return told

    def record(self, stream: str, data: bytes, shard: str = "", copies: int = 1) -> list[dict[str, str]]:
        """Write raw bytes as a foreign producer; where they went."""
        written: list[dict[str, str]] = self.control(
            "record", stream=stream, data=base64.b64encode(data).decode(), shard=shard, copies=copies
        )["records"]
        return written

    def advance(self, seconds: float) -> None:
        """Push the server's clock forward."""
        self.control("clock", seconds=seconds)

    def reset(self) -> None:
        """Forget everything."""
        self.control("reset")

    def control(self, call: str, **given: Any) -> Any:
        """Any call of /_dsqlcdc/ (see dsqlcdc.local). Raises ValueError with the server's words when it refuses."""
        return msgspec.json.decode(self._request("POST", f"/_dsqlcdc/{call}", msgspec.json.encode(given)))

    def _lines(self, name: str, query: dict[str, str]) -> Iterator[Committed]:
        decode = msgspec.json.Decoder(Committed).decode
        for line in self._request("GET", f"/_dsqlcdc/truth/{name}?{urlencode(query)}").splitlines():
            yield decode(line)

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection(self.endpoint.removeprefix("http://"), timeout=60)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(msgspec.json.decode(text)["error"] if text.startswith(b"{") else text.decode("utf-8", "replace"))
        return text

    def _serve(self) -> None:
        try:
            asyncio.run(self._main())
        except OSError as error:  # the port is taken: told to whoever starts us
            self._error = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with Local(**self._options) as aws:
            self.endpoint = aws.endpoint
            self._ready.set()
            await self._stop.wait()

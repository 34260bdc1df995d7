"""GetRecords as we send it ourselves. botocore says once where to and with which headers; then a call costs a signature and a request.

botocore's way through serializer, endpoint rules, hooks and parser takes longer than the request, for every read of every shard. Endpoints,
credentials, proxies, settings of TLS and the errors of connections stay its and aiobotocore's.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from dsqlcdc.sources.service import Admit
from dsqlcdc.sources.session import Exchange, text

_CREDENTIAL = re.compile(r"AWS4-HMAC-SHA256 Credential=[^/]+/\d{8}/([^/]+)/([^/]+)/aws4_request,")
_KEPT = ("Content-Type", "User-Agent", "X-Amz-Target")


class Scope:
    """Signature Version 4 for POSTs with the same `headers` to one host, Region and service. What two calls of one second have in common
    is made once: all but the body's hash and the two that depend on it."""

    def __init__(self, host: str, path: str, region: str, service: str, headers: Mapping[str, str]) -> None:
        self._host, self._path, self._region, self._service, self._given = host, path, region, service, dict(headers)
        self._common: tuple[int, str, str, str | None] | None = None
        self._headers: dict[str, str] = {}
        self._asked = self._text = self._authorization = ""
        self._key = b""

    def sign(self, body: bytes, credentials: Any, now: float) -> dict[str, str]:
        """The given headers with date, token and signature for `body` at `now` (seconds since the epoch). All but User-Agent are signed."""
        common = (int(now), credentials.access_key, credentials.secret_key, credentials.token)
        if common != self._common:
            self._begin(*common)
            self._common = common
        asked = self._asked + hashlib.sha256(body).hexdigest()
        string = self._text + hashlib.sha256(asked.encode()).hexdigest()
        return {**self._headers, "Authorization": self._authorization + hmac.digest(self._key, string.encode(), "sha256").hex()}

    def _begin(self, second: int, access: str, secret: str, token: str | None) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        self._headers = {**self._given, "X-Amz-Date": stamp, **({"X-Amz-Security-Token": token} if token else {})}
        signed = sorted([("host", self._host), *((name.lower(), value) for name, value in self._headers.items() if name != "User-Agent")])
        names = ";".join([name for name, _ in signed])
        lines = "".join([f"{name}:{' '.join(value.split())}\n" for name, value in signed])
        scope = f"{stamp[:8]}/{self._region}/{self._service}/aws4_request"
        self._asked = f"POST\n{self._path}\n\n{lines}\n{names}\n"
        self._text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n"
        self._authorization = f"AWS4-HMAC-SHA256 Credential={access}/{scope}, SignedHeaders={names}, Signature="
        key = b"AWS4" + secret.encode()
        for word in scope.split("/"):
            key = hmac.digest(key, word.encode(), "sha256")
        self._key = key


class Direct:
    """The call as botocore has prepared one. `credentials` are aiobotocore's, which refresh themselves."""

    def __init__(self, prepared: Any, credentials: Any, exchange: Exchange, clock: Callable[[], float] = time.time) -> None:
        self._credentials, self._exchange, self._clock = credentials, exchange, clock
        signed = _CREDENTIAL.match(text(prepared.headers["Authorization"]))
        address = urlsplit(str(prepared.url))
        assert signed is not None, "Kinesis is signed by Signature Version 4"
        headers = {name: text(prepared.headers[name]) for name in _KEPT if name in prepared.headers}
        self._scope = Scope(_host(address), address.path or "/", signed[1], signed[2], headers)
        self._parser: Any = importlib.import_module("aiobotocore.parsers").AioJSONParser()
        self._refused: Any = importlib.import_module("botocore.exceptions").ClientError

    async def __call__(self, asked: Mapping[str, Any], admit: Admit) -> tuple[Mapping[str, str], bytearray]:
        """Ask; the answer's headers and body. Raises as the client does: ClientError for a refusal, what fetching credentials and the
        exchange raise, and what `admit` raises."""
        body = msgspec.json.encode(asked)
        headers = self._scope.sign(body, await self._credentials.get_frozen_credentials(), self._clock())
        status, answered, content = await self._exchange(headers, body, admit)
        if status == 200:
            return answered, content
        if status < 301:
            metadata = {"HTTPStatusCode": status, "HTTPHeaders": answered}
            raise self._refused({"Error": {"Code": str(status)}, "ResponseMetadata": metadata}, "GetRecords")
        answer: Any = {"status_code": status, "headers": answered, "body": bytes(content), "context": {}}
        raise self._refused(await self._parser.parse(answer, None), "GetRecords")


def _host(address: SplitResult) -> str:
    """The Host header: a port that goes without saying is left out."""
    host, port = address.netloc.rpartition("@")[2], {"http": ":80", "https": ":443"}[address.scheme]
    return host.removesuffix(port)

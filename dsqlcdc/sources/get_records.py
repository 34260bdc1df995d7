"""GetRecords as we send it ourselves. botocore says once where to and with which headers; then a call costs a signature and a request.

botocore's way through serializer, endpoint rules, hooks and parser takes longer than the request, for every read of every shard. Endpoints,
credentials, proxies, TLS and the errors of connections stay its and aiobotocore's.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from dsqlcdc.sources.service import Admit

_CREDENTIAL = re.compile(r"AWS4-HMAC-SHA256 Credential=[^/]+/\d{8}/([^/]+)/([^/]+)/aws4_request,")
_KEPT = ("Content-Type", "User-Agent", "X-Amz-Target")

Exchange = Callable[[Any, Admit], Awaitable[tuple[int, Mapping[str, str], bytearray]]]
"""Sends a prepared request; status, headers (names in lower case) and body of the answer. Raises what aiobotocore's session raises."""


class Scope:
    """Signature Version 4 for one host, Region and service. The key is derived once a day, and when the secret changes."""

    def __init__(self, host: str, path: str, region: str, service: str) -> None:
        self._host, self._path, self._region, self._service = host, path, region, service
        self._secret = self._day = ""
        self._key = b""

    def sign(self, headers: dict[str, str], body: bytes, credentials: Any, now: float) -> None:
        """Add date, token and signature of a POST at `now` (seconds since the epoch). All headers but User-Agent are signed."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        headers["X-Amz-Date"] = stamp
        if credentials.token:
            headers["X-Amz-Security-Token"] = credentials.token
        signed = sorted([("host", self._host), *((name.lower(), value) for name, value in headers.items() if name != "User-Agent")])
        names = ";".join([name for name, _ in signed])
        lines = "".join([f"{name}:{' '.join(value.split())}\n" for name, value in signed])
        asked = f"POST\n{self._path}\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
        scope = f"{stamp[:8]}/{self._region}/{self._service}/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
        signature = hmac.digest(self._derived(credentials.secret_key, stamp[:8]), text.encode(), "sha256").hex()
        headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        )

    def _derived(self, secret: str, day: str) -> bytes:
        if (secret, day) != (self._secret, self._day):
            key = b"AWS4" + secret.encode()
            for word in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, word.encode(), "sha256")
            self._key, self._secret, self._day = key, secret, day
        return self._key


class Direct:
    """The call as botocore has prepared one. `credentials` are aiobotocore's, which refresh themselves."""

    def __init__(self, prepared: Any, credentials: Any, exchange: Exchange, clock: Callable[[], float] = time.time) -> None:
        self._url, self._credentials, self._exchange, self._clock = prepared.url, credentials, exchange, clock
        self._headers = {name: text(prepared.headers[name]) for name in _KEPT if name in prepared.headers}
        signed = _CREDENTIAL.match(text(prepared.headers["Authorization"]))
        address = urlsplit(str(prepared.url))
        assert signed is not None, "Kinesis is signed by Signature Version 4"
        self._scope = Scope(_host(address), address.path or "/", signed[1], signed[2])
        self._request: Any = importlib.import_module("botocore.awsrequest").AWSPreparedRequest
        self._parser: Any = importlib.import_module("aiobotocore.parsers").AioJSONParser()
        self._refused: Any = importlib.import_module("botocore.exceptions").ClientError

    async def __call__(self, asked: Mapping[str, Any], admit: Admit) -> tuple[Mapping[str, str], bytearray]:
        """Ask; the answer's headers and body. Raises as the client does: ClientError for a refusal, what fetching credentials and the
        exchange raise, and what `admit` raises."""
        body, headers = msgspec.json.encode(asked), dict(self._headers)
        self._scope.sign(headers, body, await self._credentials.get_frozen_credentials(), self._clock())
        status, answered, content = await self._exchange(self._request("POST", self._url, headers, body, True), admit)
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


def text(value: str | bytes) -> str:
    """A header's value, which botocore has as either."""
    return value.decode() if isinstance(value, bytes) else value

"""Signature Version 4 for `es` and `aoss`. Credentials are fetched and refreshed without holding up the loop; the body's hash is signed."""

from __future__ import annotations

import asyncio
import importlib
import os
from typing import Any

from yarl import URL

from dsqlcdc.aws import Aws, errors, translate
from dsqlcdc.errors import Misconfigured


class SigV4:
    """Signs by the standard chain of credentials. `service` is es or aoss."""

    def __init__(self, service: str, aws: Aws, where: str) -> None:
        self._service, self._aws, self._where = service, aws, where
        self._credentials: Any = None
        self._lock = asyncio.Lock()
        self._region = ""

    async def sign(self, method: str, url: URL, headers: dict[str, str], digest: str) -> None:
        """Adds the signature. Raises Misconfigured (no credentials, no region) and Unavailable (they could not be fetched)."""
        try:
            async with self._lock:
                credentials = self._credentials or await self._fetch()
            frozen = await credentials.get_frozen_credentials()
        except errors() as error:
            raise translate(error, doing="sign a request", where=self._where) from error
        auth = importlib.import_module("botocore.auth")
        request = importlib.import_module("botocore.awsrequest").AWSRequest(method=method, url=str(url), headers={"Host": _host(url)})
        request.headers["X-Amz-Content-SHA256"] = digest
        auth.SigV4Auth(frozen, self._service, self._region).add_auth(request)
        for name in ("Authorization", "X-Amz-Date", "X-Amz-Security-Token", "X-Amz-Content-SHA256"):
            if name in request.headers:
                headers[name] = request.headers[name]

    async def _fetch(self) -> Any:
        # What a chain does to begin with (files, environment) takes milliseconds; what takes longer (STS, IMDS) is asynchronous.
        session = importlib.import_module("aiobotocore.session").AioSession(profile=self._aws.profile)
        region = self._aws.region or os.environ.get("AWS_REGION") or session.get_config_variable("region")
        if not region:
            raise Misconfigured(
                "cannot sign requests to OpenSearch",
                where=self._where,
                why="no AWS region is set: set sign.region, aws.region or AWS_REGION",
                run="dsqlcdc config show CONFIG",
                code="E106",
            )
        credentials = await session.get_credentials()
        if credentials is None:
            raise importlib.import_module("botocore.exceptions").NoCredentialsError()
        self._region, self._credentials = str(region), credentials
        return credentials

    async def refresh(self) -> bool:
        """Forget the credentials: the next request fetches them anew."""
        self._credentials = None
        return True


def _host(url: URL) -> str:
    host = url.raw_host or ""
    host = f"[{host}]" if ":" in host else host
    return host if url.is_default_port() or url.explicit_port is None else f"{host}:{url.explicit_port}"

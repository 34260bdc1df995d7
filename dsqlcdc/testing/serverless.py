"""A model of a collection of Amazon OpenSearch Serverless: the engine, and what a collection refuses beyond it.

Restated from AWS's documents and from reports of users; what nobody has written down is marked so in sinks' tests by a probe at start.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from dsqlcdc.testing.opensearch import FakeOpenSearch, Reply
from dsqlcdc.testing.search_index import Refused

_SIGNED = re.compile(
    r"AWS4-HMAC-SHA256 Credential=[^/]+/\d{8}/[a-z0-9-]+/aoss/aws4_request, ?SignedHeaders=([a-z0-9;-]+), ?Signature=[0-9a-f]{64}"
)
_ABSENT = ("_cluster", "_nodes", "_cat", "_refresh", "_flush", "_forcemerge", "_settings", "_block", "_tasks", "_scroll", "_snapshot")


class FakeCollection(FakeOpenSearch):
    """`kind` is the collection's type. A new index is denied for `young` seconds. Documents may not be larger than 10 MiB at a time."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        kind: Literal["search", "timeseries", "vectorsearch"] = "search",
        young: float = 15.0,
        external_versions: bool = True,
    ) -> None:
        super().__init__(clock, max_content_length=10 * 1024 * 1024, external_versions=external_versions)
        self.kind, self.young = kind, young
        self.unsigned: list[str] = []

    def _answer(self, method: str, path: str, params: Mapping[str, str], body: bytes, headers: Mapping[str, str]) -> Reply:
        lower = {name.lower(): value for name, value in headers.items()}
        signed = _SIGNED.fullmatch(lower.get("authorization", ""))
        if signed is None or "x-amz-content-sha256" not in signed[1].split(";") or "x-amz-content-sha256" not in lower:
            self.unsigned.append(path)
            return Reply(403, b'{"status":403,"request-id":"x","error":{"reason":"403 Forbidden","type":"Forbidden"}}')
        return super()._answer(method, path, params, body, headers)

    def route(self, method: str, parts: list[str], params: Mapping[str, str], body: bytes, headers: Mapping[str, str]) -> tuple[int, Any]:
        if parts == [""] or any(part in _ABSENT for part in parts):
            raise Refused(404, "Not Found", "404 Not Found")
        if wrong := {"timeout", "master_timeout", "cluster_manager_timeout", "refresh", "require_alias"} & params.keys():
            raise Refused(400, "illegal_argument_exception", f"request contains unrecognized parameter: [{min(wrong)}]")
        if len(parts) > 1 and (index := self.indexes.get(parts[0])) is not None and self.clock() - index.created_at < self.young:
            raise Refused(404, "index_not_found_exception", f"no such index [{parts[0]}]")
        return super().route(method, parts, params, body, headers)

    def create(self, name: str, given: Mapping[str, Any]) -> Any:
        if given.get("settings"):
            raise Refused(400, "illegal_argument_exception", "unknown setting: collections choose their own")
        return super().create(name, given)

    def _act(self, action: str, name: str, id: str, about: Mapping[str, Any], source: bytes) -> tuple[int, Any]:
        if self.kind != "search" and action == "index" and id:
            raise Refused(400, "illegal_argument_exception", "Document ID is not supported in create/index operation request")
        if (index := self.indexes.get(name)) is not None and self.clock() - index.created_at < self.young:
            raise Refused(404, "index_not_found_exception", f"no such index [{name}]")
        return super()._act(action, name, id, about, source)

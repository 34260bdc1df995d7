"""Which service and operation a request is for, read from its headers and path as AWS's own front does."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs

_S3_OBJECT = {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject", "POST": "PostObject"}
_S3_BUCKET = {"GET": "ListObjects", "HEAD": "HeadBucket", "PUT": "CreateBucket", "DELETE": "DeleteBucket", "POST": "DeleteObjects"}


def service_of(headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    """The signing name in the credential scope; "s3" where nothing says otherwise."""
    target = headers.get("X-Amz-Target", "")
    if target.startswith("Kinesis_"):
        return "kinesis"
    scope = headers.get("Authorization", "").partition("Credential=")[2].partition(",")[0] or query.get("X-Amz-Credential", "")
    parts = scope.split("/")
    if len(parts) >= 5:
        return parts[-2]
    return "dynamodb" if target.startswith("DynamoDB_") else "s3"


def operation_of(service: str, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes) -> str:
    """The operation's name in the service's API."""
    target = headers.get("X-Amz-Target", "")
    if target:
        return target.rpartition(".")[2]
    if service == "s3":
        return _s3(method, path, query, headers)
    if service == "dsql":
        return _dsql(method, path)
    if path.startswith("/service/") and "/operation/" in path:  # Smithy's RPC: CloudWatch
        return path.rpartition("/")[2]
    return parse_qs(body[:10_000].decode("utf-8", "replace")).get("Action", [query.get("Action", "")])[0]


def _s3(method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
    bucket, _, key = path.lstrip("/").partition("/")
    if not bucket:
        return "ListBuckets"
    if not key:
        return "ListObjectsV2" if method == "GET" and "list-type" in query else _S3_BUCKET.get(method, method)
    if "uploads" in query:
        return "CreateMultipartUpload"
    if "uploadId" in query:
        return {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}.get(method, "ListParts")
    if method == "PUT" and "x-amz-copy-source" in headers:
        return "CopyObject"
    return _S3_OBJECT.get(method, method)


def _dsql(method: str, path: str) -> str:
    kind, *rest = path.strip("/").split("/")
    if kind == "tags":
        return {"GET": "ListTagsForResource", "POST": "TagResource", "DELETE": "UntagResource"}.get(method, method)
    noun = "Stream" if kind == "stream" else "Cluster"
    whole = len(rest) == (2 if noun == "Stream" else 1)
    if method == "GET":
        return f"Get{noun}" if whole else f"List{noun}s"
    if method == "POST":
        return "UpdateCluster" if whole and noun == "Cluster" else f"Create{noun}"
    return f"Delete{noun}"

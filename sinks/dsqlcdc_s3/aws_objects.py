"""Objects in Amazon S3: one request a call, and every answer of the failure table turned into a Fault."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import IO, Any

from dsqlcdc.aws import error_code, errors, translate
from dsqlcdc.contract import Misconfigured, Unavailable
from dsqlcdc.errors import Fault
from dsqlcdc_s3.objects import PAGE, Missing, Put, TooLarge
from dsqlcdc_s3.options import Options

_CHUNK = 256 * 1024
_DIGEST = frozenset({"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"})
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_ELSEWHERE = frozenset(
    {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}
)
_TRIES_DIGEST = 3
_MOMENT = timedelta(minutes=1)
"""How long a store would hold what it should have refused."""


class AwsObjects:
    """Objects over an aiobotocore client."""

    def __init__(self, client: Any, options: Options) -> None:
        self._client = client
        self._options = options
        self._owner = {"ExpectedBucketOwner": options.expected_bucket_owner} if options.expected_bucket_owner else {}
        chosen = {
            "StorageClass": options.storage_class,
            "ServerSideEncryption": options.sse,
            "SSEKMSKeyId": options.kms_key_id,
            "BucketKeyEnabled": options.bucket_key,
        }
        self._lock = options.object_lock
        self._stored_as = {name: value for name, value in chosen.items() if value is not None}

    async def put(self, key: str, body: bytes, *, if_none_match: bool, sha256: bytes, content_type: str) -> Put:
        return await self._put(key, lambda: body, f"{len(body)} bytes", if_none_match, sha256, content_type)

    async def put_file(self, key: str, body: IO[bytes], *, sha256: bytes, content_type: str) -> Put:
        """Put a file from its beginning, on the condition that there is no such object. It is read as it is sent."""
        size = body.seek(0, 2)

        def again() -> IO[bytes]:
            body.seek(0)
            return body

        return await self._put(key, again, f"{size} bytes", True, sha256, content_type)

    async def _put(
        self, key: str, body: Callable[[], bytes | IO[bytes]], size: str, if_none_match: bool, sha256: bytes, content_type: str
    ) -> Put:
        condition = {"IfNoneMatch": "*"} if if_none_match else {}
        checksum = base64.b64encode(sha256).decode()
        digests = renewals = 0
        while True:
            try:
                await self._client.put_object(
                    Bucket=self._options.bucket,
                    Key=key,
                    Body=body(),
                    ContentType=content_type,
                    ChecksumAlgorithm="SHA256",
                    ChecksumSHA256=checksum,
                    **condition,
                    **self._stored_as,
                    **self._locked(),
                    **self._owner,
                )
                return Put.CREATED
            except errors() as error:
                code = error_code(error)
                if if_none_match and (code == "PreconditionFailed" or _status(error) == 412):
                    return Put.EXISTS
                if code in _DIGEST and (digests := digests + 1) < _TRIES_DIGEST:
                    continue
                if code in _EXPIRED and (renewals := renewals + 1) < 2:
                    continue
                raise self._fault(error, f"put {size}", key) from error

    def _locked(self, held: timedelta | None = None) -> dict[str, Any]:
        if self._lock is None:
            return {}
        until = datetime.now(UTC) + (held or timedelta(days=self._lock.days))
        return {"ObjectLockMode": self._lock.mode, "ObjectLockRetainUntilDate": until}

    async def try_put(self, key: str) -> bool:
        try:
            await self._client.put_object(
                Bucket=self._options.bucket,
                Key=key,
                Body=b"",
                IfMatch='"none"',
                ChecksumAlgorithm="SHA256",
                **self._stored_as,
                **self._locked(_MOMENT),
                **self._owner,
            )
        except errors() as error:
            code, status = error_code(error), _status(error)
            if code in ("NoSuchKey", "PreconditionFailed") or (status in (404, 412) and code != "NoSuchBucket"):
                return False
            raise self._fault(error, "put an object", key) from error
        return True

    async def get(self, key: str) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._chunks(await self._answer(key), key)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _answer(self, key: str) -> dict[str, Any]:
        """What the store says of an object, before its bytes. Raises Missing."""
        renewals = 0
        while True:
            try:
                answer: dict[str, Any] = await self._client.get_object(Bucket=self._options.bucket, Key=key, **self._owner)
                return answer
            except errors() as error:
                code = error_code(error)
                if code == "NoSuchKey" or (code in ("404", "NotFound") and _status(error) == 404):
                    raise Missing(key) from None
                if code in _EXPIRED and (renewals := renewals + 1) < 2:
                    continue
                raise self._fault(error, "read an object", key) from error

    async def _chunks(self, answer: Mapping[str, Any], key: str) -> AsyncGenerator[bytes, None]:
        async with answer["Body"] as body:
            while True:
                try:
                    chunk = await body.read(_CHUNK)
                except errors() as error:
                    raise self._fault(error, "read an object to its end", key) from error
                if not chunk:
                    return
                yield chunk

    async def list(self, prefix: str, start_after: str) -> Sequence[str]:
        renewals = 0
        while True:
            try:
                answer: dict[str, Any] = await self._client.list_objects_v2(
                    Bucket=self._options.bucket, Prefix=prefix, StartAfter=start_after, MaxKeys=PAGE, **self._owner
                )
                return [str(entry["Key"]) for entry in answer.get("Contents", ())]
            except errors() as error:
                if error_code(error) in _EXPIRED and (renewals := renewals + 1) < 2:
                    continue
                raise self._fault(error, "list manifests", prefix) from error

    def _fault(self, error: Exception, doing: str, key: str) -> Fault:
        where = f"s3://{self._options.bucket}/{key}"
        fault = translate(error, doing=doing, where=where)
        code = error_code(error)
        made = self._special(code, error, fault.what, where)
        if made is not None:
            return made
        if fault.code == "E102" and isinstance(fault, Misconfigured):
            why = f"{fault.why}. All that this sink needs: {policy(self._options)}"
            return Misconfigured(fault.what, where=where, why=why, run=fault.run, code=fault.code)
        return fault

    def _special(self, code: str, error: Exception, what: str, where: str) -> Fault | None:
        """Where S3's answer calls for another conclusion, or plainer words, than the table for all services has."""
        if code in ("EntityTooLarge", "MaxMessageLengthExceeded") or (_status(error) == 413 and code not in _DIGEST):
            why = f"the store takes no object of this size ({code or 413})"
            return TooLarge(what, where=where, why=why, run="lower roll.bytes in CONFIG, then dsqlcdc run CONFIG", code="E104")
        if code in _DIGEST:
            why = f"its checksum did not match on arrival ({code}), {_TRIES_DIGEST} times: a proxy or this machine's memory alters bytes"
            return Misconfigured(what, where=where, why=why, run="dsqlcdc run CONFIG, past any proxy", code="E104")
        if code == "RequestTimeTooSkewed":
            why = "this machine's clock is off by more than 15 minutes (RequestTimeTooSkewed)"
            return Misconfigured(what, where=where, why=why, run="timedatectl status, and set the clock", code="E104")
        if code in _EXPIRED:
            why = f"the credentials have expired ({code}), and were the same when asked for again"
            return Misconfigured(what, where=where, why=why, run="aws sts get-caller-identity", code="E105")
        if code in _ELSEWHERE or (_status(error) == 301 and code not in ("NoSuchBucket",)):
            return self._elsewhere(code, error, what, where)
        if code == "InvalidRequest" and "Lock" in str(error):
            return no_object_lock(self._options.bucket, what, where)
        if code == "InvalidObjectState":
            why = "the object has been archived (Glacier); the sink reads back what is not yet committed"
            return Misconfigured(what, where=where, why=why, run=f"aws s3api restore-object for {where}", code="E104")
        if code.startswith("KMS.") and _status(error) not in (429, 500, 503):
            key = self._options.kms_key_id or "the bucket's own"
            why = f"the KMS key ({key}) cannot be used ({code}): it must be enabled, and allow kms:GenerateDataKey and kms:Decrypt"
            return Misconfigured(what, where=where, why=why, run="aws kms describe-key --key-id KEY", code="E102")
        return None

    def _elsewhere(self, code: str, error: Exception, what: str, where: str) -> Fault:
        response: dict[str, Any] = getattr(error, "response", {})
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = headers.get("x-amz-bucket-region") or response.get("Error", {}).get("Region", "")
        known = f"the bucket is in {region}" if region else "the bucket is in another region"
        if code == "TemporaryRedirect":
            return Unavailable(what, where=where, why=f"{known}; S3 is still making its name known ({code})")
        run = f"set region: {region or 'REGION'} at the sink in CONFIG, then dsqlcdc run CONFIG"
        return Misconfigured(what, where=where, why=f"{known}, requests go to this one's ({code or 301})", run=run, code="E104")


def no_object_lock(bucket: str, what: str, where: str) -> Misconfigured:
    """The fault of a bucket without Object Lock to which `object_lock` is to apply."""
    why = "the bucket has no Object Lock: it must be switched on before `object_lock` is of use"
    run = f"aws s3api put-object-lock-configuration --bucket {bucket} --object-lock-configuration ObjectLockEnabled=Enabled"
    return Misconfigured(what, where=where, why=why, run=run, code="E104")


def policy(options: Options) -> str:
    """The IAM statements that the sink needs, as JSON. No multipart uploads, no deleting."""
    bucket = options.bucket if options.bucket.startswith("arn:") else f"arn:aws:s3:::{options.bucket}"
    objects = f"{bucket}/object" if options.bucket.startswith("arn:") else bucket
    actions = ["s3:PutObject", "s3:GetObject", *(["s3:PutObjectRetention"] if options.object_lock is not None else [])]
    statements: list[dict[str, Any]] = [
        {"Effect": "Allow", "Action": actions, "Resource": f"{objects}/{options.prefix}*"},
        {
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": bucket,
            "Condition": {
                "StringLike": {"s3:prefix": [f"{options.prefix}data/*", f"{options.prefix}manifests/*", f"{options.prefix}digests/*"]}
            },
        },
    ]
    if options.kms_key_id:
        alias = options.kms_key_id.startswith("alias/")  # IAM knows keys only
        key = options.kms_key_id if options.kms_key_id.startswith("arn:") else f"arn:aws:kms:*:*:key/{'*' if alias else options.kms_key_id}"
        statements.append({"Effect": "Allow", "Action": ["kms:GenerateDataKey", "kms:Decrypt"], "Resource": key})
    return json.dumps(statements)


def _status(error: Exception) -> int:
    response: dict[str, Any] = getattr(error, "response", {}) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)

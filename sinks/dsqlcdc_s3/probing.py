"""What the doctor tries of an s3 sink beside its lake: who signs, where digests go, Object Lock. Every fault is told, not only the first."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.util import find_spec

from dsqlcdc.aws import Aws, client
from dsqlcdc.contract import Context, Misconfigured
from dsqlcdc.errors import Fault
from dsqlcdc_s3.aws_objects import no_object_lock
from dsqlcdc_s3.digest import parse
from dsqlcdc_s3.lock import object_lock
from dsqlcdc_s3.objects import PAGE, Objects, Store
from dsqlcdc_s3.opening import aws_of, elsewhere
from dsqlcdc_s3.options import Options
from dsqlcdc_s3.signing import PublicKey, Signer

Trial = Callable[[], Awaitable[None]]
_DENIED = "E102"


async def all_of(trials: Sequence[Trial]) -> None:
    """Make every trial, one after the other. Raises the fault of the one that failed, an ExceptionGroup where several did."""
    faults: list[Fault] = []
    for trial in trials:
        try:
            await trial()
        except Fault as fault:
            faults.append(fault)
    if len(faults) > 1:
        raise ExceptionGroup("several things of a sink are wrong", faults)
    if faults:
        raise faults[0]


async def try_signing(signer: Signer) -> None:
    """Sign something that can be taken for no digest, and see that it is the signature of the public key that digests will name.

    Raises what Signer raises, and Misconfigured (E381) where it is not.
    """
    signing = await signer.signing()
    if signing.algorithm == "none":
        return
    message = b"dsqlcdc-doctor-v1:" + secrets.token_hex(32).encode()
    signature = await signer.sign(message)
    if find_spec("cryptography") is None:  # KMS signs without it; verifying is for whoever installs it
        return
    if not PublicKey(signing.key, base64.b64decode(signing.public_key)).verifies(signing.algorithm, signature, message):
        why = "what it signs is not a signature of the public key that belongs to it"
        raise Misconfigured(
            "the signing key does not fit its public key", where=signing.key, why=why, run="dsqlcdc doctor CONFIG", code="E381"
        )


async def try_store(store: Store, prefix: str) -> None:
    """Find, read and put digests where they go, by the role that does. It leaves nothing: what is put can only be refused.

    Raises what Objects raises, and Misconfigured where the newest digest there is none, or the store knows no conditions.
    """
    async with store() as objects:
        last = await _last(objects, f"{prefix}digests/")
        if last:
            parse(b"".join([chunk async for chunk in objects.get(last)]), last)
        if await objects.try_put(key := f"{prefix}digests/probe"):
            why = "it took an object whose condition did not hold, and so left an empty one there; nothing keeps two writers apart"
            raise Misconfigured(
                "the store of digests ignores If-Match", where=key, why=why, run="use Amazon S3, or a store that knows conditional writes"
            )


async def _last(objects: Objects, folder: str) -> str:
    """The key of the newest digest, "" where there is none."""
    last, after = "", folder
    while True:
        keys = await objects.list(folder, after)
        last = max((key for key in keys if key.endswith(".json")), default=last)
        if len(keys) < PAGE:
            return last
        after = keys[-1]


def locks(options: Options, context: Context) -> Sequence[Trial]:
    """One for each bucket that must have Object Lock."""
    if options.object_lock is None:
        return ()
    trials = [partial(_has_lock, options, aws_of(options, context))]
    apart, aws = elsewhere(options, context)
    if options.digest is not None and apart.bucket != options.bucket:
        role = Aws(aws.region, aws.profile, aws.endpoint_url, options.digest.role)
        trials.append(partial(_has_lock, apart, role))
    return trials


async def _has_lock(options: Options, aws: Aws) -> None:
    """Raises Misconfigured where the bucket has no Object Lock. Whoever may not ask is told by the put that is tried as well."""
    owner = {"ExpectedBucketOwner": options.expected_bucket_owner} if options.expected_bucket_owner else {}
    try:
        async with client("s3", aws) as s3:
            if await object_lock(s3, options.bucket, **owner):
                return
    except Misconfigured as fault:
        if fault.code != _DENIED:
            raise
        return
    raise no_object_lock(options.bucket, "what is written cannot be held", f"s3://{options.bucket}")

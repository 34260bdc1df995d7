"""KMS keys: what Kinesis says when the key of a stream cannot be used, and calls put as moto understands them."""

from __future__ import annotations

import re

from dsqlcdc.local.reach import AWS_KEY, Account
from dsqlcdc.local.refusal import Refusal


def is_own(key_id: str) -> bool:
    """Whether it is the key that Kinesis itself keeps in every account, which nobody can disable."""
    return key_id.endswith(AWS_KEY)


def check_key(account: Account, key_id: str) -> None:
    """Refuse what needs a key that is not there or not enabled."""
    if is_own(key_id):
        return
    key = account.key(key_id)
    if key is None:
        raise Refusal("KMSNotFoundException", f"Invalid keyId {key_id}: the KMS key does not exist.")
    if key.state == "Disabled":
        raise Refusal("KMSDisabledException", f"{key.arn} is disabled.")
    if key.state != "Enabled":
        raise Refusal("KMSInvalidStateException", f"{key.arn} is in the state {key.state}, in which it cannot be used.")


_BY_ID_ONLY = ("EnableKey", "DisableKey", "ScheduleKeyDeletion", "CancelKeyDeletion", "GetKeyPolicy", "PutKeyPolicy")
"""Operations for which moto wants a key's id where AWS takes its ARN too."""
_KEY_ARN = re.compile(rb'("KeyId"\s*:\s*")arn:aws[\w-]*:kms:[\w-]+:\d{12}:key/')


def by_id(operation: str, body: bytes) -> bytes:
    """A call of KMS as moto understands it."""
    return _KEY_ARN.sub(rb"\1", body) if operation in _BY_ID_ONLY else body

"""Many events in one request (CloudEvents batched mode), and what an answer says of each of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dsqlcdc_webhook.answers import Answer
from dsqlcdc_webhook.parcel import Parcel


class Failure(msgspec.Struct, frozen=True):
    """What a receiver says of an event that it did not take. Without a status: send it again."""

    id: str
    status: int | None = None
    reason: Any = None


class _Answer(msgspec.Struct, frozen=True):
    failures: list[str | Failure] | msgspec.UnsetType = msgspec.UNSET


class Unclear(Exception):
    """The answer may speak of failures and cannot be understood: nobody knows what went in."""


_decode = msgspec.json.Decoder(_Answer).decode


def batch_id(parcels: Sequence[Parcel]) -> str:
    """The webhook-id of a batch: a hash of the ids in it, in their order, so the same events in the same order have the same."""
    return hashlib.sha256(b"".join([parcel.change.id for parcel in parcels])).hexdigest()[:32]


def batch_body(parcels: Sequence[Parcel]) -> bytes:
    return b"[%s]" % b",".join([parcel.body for parcel in parcels])


def fitting(sizes: Sequence[int], limit: int) -> int:
    """How many of the first events go into a body of `limit` bytes; at least one."""
    total, count = 2, 0
    for size in sizes:
        total += size + (count > 0)
        if total > limit and count:
            break
        count += 1
    return count


def failures(answer: Answer, ids: Sequence[str]) -> Mapping[str, Failure]:
    """What a 2xx answer to these events says was not taken, by id; empty where all were.

    A body that is a JSON object with `failures` is read: a list of ids, or of objects with `id` and perhaps `status` and `reason`. Any
    other text counts as nothing said, but for a 207, which has something to say. Raises Unclear where that cannot be relied on: an object
    cut short or of another shape, an id that was not sent or is named twice.
    """
    text = answer.text.strip()
    if not answer.whole:
        raise Unclear("its answer broke off")
    if not text.startswith(b"{") and answer.status != 207:
        return {}
    try:
        said = _decode(text).failures
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Unclear("its answer is no object with a list of failures") from None
    if said is msgspec.UNSET:
        if answer.status == 207:
            raise Unclear("its answer is 207 without a list of failures")
        return {}
    found: dict[str, Failure] = {}
    known = set(ids)
    for entry in said:
        failure = Failure(entry) if isinstance(entry, str) else entry
        if failure.id not in known:
            raise Unclear("its answer names an event that was not sent")
        if failure.id in found:
            raise Unclear("its answer names an event twice")
        if failure.status is not None and not 200 <= failure.status <= 599:
            raise Unclear("its answer holds a status that is none")
        found[failure.id] = failure
    return found

"""What one change is sent as: body and headers, by the option `format`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from dsqlcdc.contract import Change
from dsqlcdc.lines import received
from dsqlcdc_webhook.event import DATA, STRUCTURED, data, event, headers, referring

Format = Literal["cloudevents", "cloudevents_binary", "raw"]
_STRUCTURED = {"Content-Type": STRUCTURED}
_RAW = {"Content-Type": DATA}


class Parcel(msgspec.Struct, frozen=True, gc=False):
    """One change on its way: its place in the batch given to `write`, the change, the exact body, the headers that say what it is.

    `dataref`: where its data is, for one whose data is elsewhere.
    """

    index: int
    change: Change
    body: bytes
    headers: Mapping[str, str]
    dataref: str = ""


Form = Callable[[int, Change], Parcel]
"""Make the parcel of a change. Raises ValueError or OverflowError for one that cannot be written so."""


def structured(index: int, change: Change) -> Parcel:
    return Parcel(index, change, event(change), _STRUCTURED)


def binary(index: int, change: Change) -> Parcel:
    return Parcel(index, change, data(change), headers(change))


def raw(index: int, change: Change) -> Parcel:
    """The record exactly as received; of an oversized row an object of such texts: `main` (its main record), `before` and `after`."""
    if not change.raw:
        raise ValueError("the record as received is not given where columns are masked")
    return Parcel(index, change, msgspec.json.encode(received(change)) if change.assembled else bytes(change.raw), _RAW)


FORMS: Mapping[Format, Form] = {"cloudevents": structured, "cloudevents_binary": binary, "raw": raw}


def claimed(parcel: Parcel, format: Format, dataref: str) -> Parcel:
    """The parcel with its data elsewhere. Not for `raw`, which has no place to say so."""
    change = parcel.change
    if format == "cloudevents_binary":
        return Parcel(parcel.index, change, b"", headers(change, dataref), dataref)
    return Parcel(parcel.index, change, referring(change, dataref), _STRUCTURED, dataref)

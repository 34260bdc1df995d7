"""What one change is sent as: body and headers, by the option `format`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from dsqlcdc.contract import Change, Setback
from dsqlcdc.lines import received
from dsqlcdc_webhook.event import DATA, STRUCTURED, data, event, headers, referring

Format = Literal["cloudevents", "cloudevents_binary", "raw"]
_STRUCTURED = {"Content-Type": STRUCTURED}
_RAW = {"Content-Type": DATA}
_AHEAD, _AHEAD_BYTES = 32, 64 * 1024


class Parcel(msgspec.Struct, frozen=True, gc=False):
    """One change on its way: its place in the batch given to `write`, the change, the exact body, the headers that say what it is.

    `dataref`: where its data is, for one whose data is elsewhere. `signed`: the headers with the signature, good for the second `signed_at`.
    """

    index: int
    change: Change
    body: bytes
    headers: Mapping[str, str]
    dataref: str = ""
    signed: Mapping[str, str] = {}
    signed_at: int = -1


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


class Made:
    """The parcels of a batch, each made once, some ahead of what is asked for: one behind the other they cost a third of what each costs between
    two requests, where nothing of it is in the processor's cache."""

    def __init__(self, changes: Sequence[Change], make: Callable[[int, Change], Parcel | Setback]) -> None:
        self._changes, self._make = changes, make
        self._made: dict[int, Parcel | Setback] = {}
        self._met = bytearray(len(changes))

    def look(self, index: int) -> Parcel | Setback:
        """What is to be sent of the change at this place, or what is to be said of it."""
        if not self._met[index]:
            self._ahead(index)
        made = self._made.get(index)
        if made is None:  # it was taken before
            made = self._made[index] = self._make(index, self._changes[index])
        return made

    def take(self, index: int) -> Parcel | Setback:
        """The same, of which nothing is kept."""
        made = self.look(index)
        del self._made[index]
        return made

    def _ahead(self, index: int) -> None:
        size = 0
        for at in range(index, min(index + _AHEAD, len(self._changes))):
            if not self._met[at]:
                self._met[at] = True
                made = self._made[at] = self._make(at, self._changes[at])
                size += len(made.body) if isinstance(made, Parcel) else 0
                if size > _AHEAD_BYTES:
                    return

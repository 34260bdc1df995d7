"""What users write against the public face. Type-checked, strictly, and never run: a name or a type that goes breaks it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Self, assert_type
from uuid import UUID

import msgspec
from pydantic import Field

from dsqlcdc import Change, Misconfigured, Op, Setback, Sink, Table, Unavailable, Verdict
from dsqlcdc.columns import (
    BigInt,
    Boolean,
    Bytea,
    Date,
    Double,
    Interval,
    Json,
    Numeric,
    OidVector,
    Row,
    RowError,
    Text,
    Time,
    Timestamp,
    Timestamptz,
    Timetz,
    Uuid,
    check_model,
    decode,
    load_model,
    row_json,
    wire,
)
from dsqlcdc.contract import Batching, Context, Known, Outcome, Progress, Resume
from dsqlcdc.errors import ConfigError, Fault, Held, Lost, Poisoned, Stopped


class Order(Row):
    id: BigInt
    total: Annotated[Numeric, Field(ge=0)]
    placed_at: Timestamptz
    class_: Text = Field(alias="class")
    paid: Boolean = Field(title="paid in full")
    local: Timestamp | None = None
    day: Date | None = None
    opens: Time | None = None
    closes: Timetz | None = None
    lasts: Interval | None = None
    photo: Bytea | None = None
    weight: Double | None = None
    ref: Uuid | None = None
    doc: Json | None = None
    oids: OidVector | None = None


def read(image: bytes, raw: msgspec.Raw) -> bytes:
    try:
        order = decode(Order, image)
        decode(Order, raw)
    except RowError as error:
        assert_type(error.column, str)
        assert_type(error.rule, str)
        raise
    assert_type(order, Order)
    assert_type(order.id, int)
    assert_type(order.total, Decimal)
    assert_type(order.placed_at.datetime(), dt.datetime)
    assert_type(order.placed_at.micros, int)
    assert_type(order.placed_at < Timestamptz.infinity(), bool)
    assert_type(order.photo, bytes | None)
    assert_type(order.lasts, dt.timedelta | None)
    assert_type(order.ref, UUID | None)
    assert_type(order.oids, tuple[int, ...] | None)
    if order.day is not None and order.opens is not None and order.doc is not None:
        assert_type(order.day.date(), dt.date)
        assert_type(order.opens.time(), dt.time)
        assert_type(order.doc.text, str)
    check_model(Order)
    load_model("shop.models:Order", "/etc/shop")
    assert_type(wire(order), bytes)
    return row_json(order)


class Ledgerbook(Sink):
    """A third party's sink, with all it may say."""

    needs_key: ClassVar[bool] = True
    needs_order: ClassVar[bool] = True
    order: ClassVar[str] = "latest"
    batching = Batching(bytes=1_000_000, records=500, age=1.0)

    def __init__(self, url: str) -> None:
        self._url = url
        self._last = b""

    @classmethod
    def from_options(cls, options: dict[str, Any], context: Context) -> Self:
        if "url" not in options:
            raise ValueError(f"sink {context.sink} of {context.pipeline} needs a url")
        return cls(str(options["url"]))

    async def resume(self, resume: Resume) -> Iterable[Known]:
        for progress in resume.progress():
            assert_type(progress, Progress)
        self._last = resume.word
        return [Known(id=b"0" * 16, arrived=resume.since)]

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        setbacks: list[Setback] = []
        for index, change in enumerate(changes):
            assert_type(change.op, Op)
            assert_type(change.table, Table)
            assert_type(change.version, int)
            assert_type(change.row, dict[str, Any] | None)
            assert_type(change.key, dict[str, Any] | None)
            if change.op is Op.DELETE and change.key is None:
                setbacks.append(Setback(index, Verdict.DEAD, code="no_key", detail="a delete of a keyless table"))
            elif change.image is None:
                setbacks.append(Setback(index, Verdict.RETRY, after=5.0))
        if not self._url:
            raise Misconfigured("the ledger book has no address", run="dsqlcdc config lint CONFIG")
        if len(setbacks) == len(changes):
            raise Unavailable("the ledger book is shut", after=30.0)
        return setbacks

    def word(self) -> bytes:
        return self._last


def explain(fault: Fault) -> int:
    match fault:
        case ConfigError():
            return len(fault.findings)
        case Held() | Poisoned() | Stopped():
            return 1
        case Lost():
            return 3
        case _:
            assert_type(fault.as_json(), dict[str, str])
            return len(Outcome)

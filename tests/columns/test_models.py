"""What a row model may be, and what it does with NULL, absent and unknown columns."""

from __future__ import annotations

import datetime as dt
import enum
import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, RootModel, field_validator, model_validator

from dsqlcdc.columns import (
    BigInt,
    Bytea,
    Json,
    Numeric,
    Row,
    RowError,
    Text,
    Timestamptz,
    Uuid,
    check_model,
    decode,
    load_model,
    row_json,
    wire,
)
from dsqlcdc.errors import ConfigError
from tests.columns.models import ORDER, Order

KEPT = ConfigDict(extra="allow")


def _model(annotation: Any, base: type[BaseModel] = Row) -> type[BaseModel]:
    return type("Made", (base,), {"__annotations__": {"it": annotation}, "__module__": __name__})


def test_an_absent_column_and_a_null_column_are_both_null() -> None:
    absent, null = (decode(Order, image) for image in (_without(ORDER, "day"), _with(ORDER, day=None)))
    assert absent.day is None
    assert null.day is None
    assert row_json(absent) == row_json(null)
    assert b'"day":null' in row_json(absent)
    assert "day" not in json.loads(wire(absent))
    assert json.loads(wire(null))["day"] is None


@pytest.mark.parametrize("column", ["id", "customer", "total", "placed_at", "paid", "weight"])
@pytest.mark.parametrize("came", ["null", "absent"])
def test_null_in_a_column_that_is_not_optional_is_refused_and_says_why(column: str, came: str) -> None:
    image = _with(ORDER, **{column: None}) if came == "null" else _without(ORDER, column)
    with pytest.raises(RowError, match="cannot represent the value") as caught:
        decode(Order, image)
    assert (caught.value.column, caught.value.got) == (column, came)


def test_unknown_columns_are_kept_value_for_value() -> None:
    added = {"added": "x", "count": 2**63 - 1, "ratio": 0.1, "list": [], "nothing": None, "deep": {"a": [True, -0.0, "é"]}}
    row = decode(Order, _with(ORDER, **added))
    assert row.model_extra == added
    assert json.loads(wire(row)) == json.loads(ORDER) | added
    assert {name: json.loads(row_json(row))[name] for name in added} == added


def test_old_and_new_shapes_of_a_table_mix() -> None:
    class Renamed(Row):
        id: BigInt
        old_name: Text | None
        new_name: Text | None

    rows = [decode(Renamed, image) for image in (b'{"id":1,"old_name":"a"}', b'{"id":1,"new_name":"b"}', b'{"id":1,"gone":5}')]
    assert [(row.old_name, row.new_name, row.model_extra) for row in rows] == [("a", None, {}), (None, "b", {}), (None, None, {"gone": 5})]


def test_unknown_columns_are_refused_if_the_model_says_so() -> None:
    class Closed(Row, extra="forbid"):
        id: BigInt

    assert decode(Closed, b'{"id":1}').id == 1
    with pytest.raises(RowError, match="does not know") as caught:
        decode(Closed, b'{"id":1,"added":"secret"}')
    assert caught.value.column == "added"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("annotation", "use"),
    [
        (dt.datetime, "Timestamptz"), (dt.date, "Date"), (dt.time, "Timetz"), (dt.timedelta, "Interval"), (bytes, "Bytea"),
        (Decimal, "Numeric"), (float, "Double"), (dict, "Json"), (dict[str, int], "Json"),
        (list[int], "OidVector"), (tuple[int, ...], "OidVector"),
        (object, "kept"), (int | str, "dsqlcdc.columns"), (set[int], "dsqlcdc.columns"), (complex, "dsqlcdc.columns"),
        (Literal[b"a"], "dsqlcdc.columns"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: a | None, lambda a: Annotated[a, Field(description="x")]])
def test_an_annotation_that_would_misread_the_wire_is_refused_with_the_type_to_use(annotation: Any, use: str, wrap: Any) -> None:
    with pytest.raises(ConfigError, match=use) as caught:
        _model(wrap(annotation))
    assert "field it" in str(caught.value.findings[0])


@pytest.mark.parametrize("annotation", [Any, object, "Any"])
def test_a_column_of_no_type_is_refused_since_unknown_ones_are_kept_anyway(annotation: Any) -> None:
    with pytest.raises(ConfigError, match="unknown columns are kept"):
        check_model(_model(annotation))


def test_a_row_model_that_would_drop_unknown_columns_cannot_be_made() -> None:
    with pytest.raises(ConfigError, match="would be lost"):
        type("Made", (Row,), {"__annotations__": {"it": int}, "__module__": __name__, "model_config": ConfigDict(extra="ignore")})


def test_rows_of_ten_mebibytes_pass() -> None:
    class Large(Row):
        id: BigInt
        body: Text
        blob: Bytea

    image = json.dumps({"id": 1, "body": "é\x01" * 2_000_000, "blob": "QUJD" * 1_000_000}).encode()
    row = decode(Large, image)
    assert (len(row.body), len(row.blob)) == (4_000_000, 3_000_000)
    assert decode(Large, wire(row)) == row


def test_pydantic_alone_would_take_microseconds_for_another_time() -> None:
    """Control: the trap that the refusal of a bare datetime closes is real."""

    class Bare(BaseModel):
        at: dt.datetime

    read = Bare.model_validate_json('{"at":1782912345678}')
    assert read.at != Timestamptz(1782912345678).datetime()


class Colour(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("annotation", "sent", "value"),
    [
        (int, 5, 5), (str, "a", "a"), (bool, True, True), (uuid.UUID, "aa4e1b97-36eb-4779-b1a0-4ef860951f0c", None),
        (Colour, "red", Colour.RED), (Literal["a", 1], "a", "a"), (Annotated[Numeric, Field(gt=0)], "1.50", Decimal("1.50")),
        (Annotated[Numeric | None, Field(gt=0)], None, None), (Json | None, "[1]", Json("[1]")),
    ],
)  # fmt: skip
def test_plain_annotations_that_hold_what_is_sent_are_taken(annotation: Any, sent: Any, value: Any) -> None:
    model = _model(annotation)
    image = json.dumps({"it": sent}).encode()
    row: Any = decode(model, image)
    assert value is None or row.it == value
    assert json.loads(wire(row)) == {"it": sent}


@pytest.mark.parametrize(("annotation", "sent"), [(int, "5"), (int, 5.0), (int, True), (str, 5), (bool, 1), (bool, "true"), (uuid.UUID, 5)])
def test_plain_annotations_are_read_strictly_in_any_pydantic_class(annotation: Any, sent: Any) -> None:
    class Lax(BaseModel):
        model_config = KEPT

    for base in (Row, Lax):
        with pytest.raises(RowError):
            decode(_model(annotation, base), json.dumps({"it": sent}).encode())


def test_any_pydantic_class_that_loses_nothing_is_taken() -> None:
    class Foreign(BaseModel):
        model_config = KEPT
        total: Numeric
        at: Timestamptz | None = None

    row = decode(Foreign, b'{"total":"1.10","more":[1]}')
    assert row_json(row) == b'{"total":"1.10","at":null,"more":[1]}'


def test_every_finding_on_a_model_is_told_at_once() -> None:
    class Bad(BaseModel):
        model_config = ConfigDict(str_strip_whitespace=True, validate_by_name=True)
        plain: dt.datetime
        late: Text | None
        invented: Text = "new"
        made: Text | None = Field(default_factory=str)
        nothing: Text = None  # type: ignore[assignment]
        one: Text = Field(validation_alias=AliasChoices("a", "b"))
        two: Text = Field(alias="x")
        three: Text

    with pytest.raises(ConfigError) as caught:
        check_model(Bad)
    told = "\n".join(str(finding) for finding in caught.value.findings)
    assert told.count("the field has a default,") == 2
    assert len(caught.value.findings) == 9
    expected = [
        'extra="ignore"', "str_strip_whitespace", "Timestamptz", "add `= None`", "invented", "made", "nothing", "choices",
        "drop validate_by_name",
    ]  # fmt: skip
    assert [word for word in expected if word not in told] == []
    assert "three" not in told


def test_two_fields_of_one_column_are_refused() -> None:
    class Twice(BaseModel):
        model_config = KEPT
        a: Text
        b: Text = Field(alias="a")

    with pytest.raises(ConfigError, match="two fields"):
        check_model(Twice)


@pytest.mark.parametrize("thing", [5, {}, "shop.models:Order", dict, RootModel[int], None, lambda: None])
def test_what_is_no_pydantic_model_is_refused(thing: Any) -> None:
    with pytest.raises(ConfigError, match="pydantic model"):
        check_model(thing)


def test_a_column_is_read_and_written_under_its_alias() -> None:
    class Aliased(Row):
        class_: Text = Field(alias="class")
        json_: Json | None = Field(alias="json")

    row = decode(Aliased, b'{"class":"a","json":"{\\"x\\": 1.10}","class_":"another column"}')
    assert row.class_ == "a"
    assert row_json(row) == b'{"class":"a","json":{"x": 1.10},"class_":"another column"}'
    assert json.loads(wire(row))["json"] == '{"x": 1.10}'


def test_a_model_that_names_a_later_type_is_checked_when_it_is_complete() -> None:
    class Waiting(Row):
        it: LaterType | None
        other: LaterType

    assert decode(Waiting, b'{"other":"1"}').it is None
    with pytest.raises(ConfigError, match="Nowhere"):
        check_model(_model("Nowhere"))


LaterType = Numeric


def test_validators_of_the_model_are_run_and_their_words_stay_out_of_the_error() -> None:
    class Guarded(Row):
        id: BigInt
        ref: Uuid | None
        at: Timestamptz | None
        blob: Annotated[Numeric, Field(le=10)] | None

        @field_validator("id")
        @classmethod
        def positive(cls, value: int) -> int:
            if value == 0:
                raise KeyError(value)
            if value < 0:
                raise ValueError(f"{value} is secret")
            return value

        @model_validator(mode="before")
        @classmethod
        def same(cls, data: Any) -> Any:
            return data

    row = decode(Guarded, b'{"id":1,"ref":"aa4e1b97-36eb-4779-b1a0-4ef860951f0c","at":5}')
    assert row.at == Timestamptz(5)
    with pytest.raises(RowError, match="refused by a validator") as caught:
        decode(Guarded, b'{"id":-77}')
    assert "77" not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(RowError, match="own code raised KeyError"):
        decode(Guarded, b'{"id":0}')
    with pytest.raises(RowError) as caught:
        decode(Guarded, b'{"id":1,"ref":"~"}')
    assert "~" not in str(caught.value)
    with pytest.raises(RowError, match="less than or equal to 10"):
        decode(Guarded, b'{"id":1,"blob":"11"}')


def test_a_value_that_a_validator_made_of_another_type_is_not_written_as_something_else() -> None:
    class Turned(Row):
        at: Timestamptz

        @field_validator("at")
        @classmethod
        def turn(cls, value: Timestamptz) -> Any:
            return object()

    row = decode(Turned, b'{"at":5}')
    with pytest.raises(RowError):
        wire(row)


@pytest.mark.parametrize(
    "image",
    [b"", b"null", b"[]", b'"x"', b"{", b'{"id":1} x', b'{"id":"\xff"}', b'{"id\xff":1}', b'{"z":' + b"[" * 5000 + b"]" * 5000 + b"}"],
)
def test_an_image_that_is_no_json_object_is_refused(image: bytes) -> None:
    with pytest.raises(RowError):
        decode(Order, image)


def test_python_code_makes_rows_of_typed_values_only() -> None:
    row = Order(
        id=1, customer="a", total=Decimal("1.0"), placed_at=Timestamptz(5), day=None, paid=True, ref=uuid.UUID(int=1), weight=1.0
    )  # fmt: skip
    assert decode(Order, wire(row)) == row
    for field, wrong in {"placed_at": 5, "total": 1.5, "ref": "aa4e1b97-36eb-4779-b1a0-4ef860951f0c", "day": 5, "id": "1"}.items():
        with pytest.raises(ValueError, match=field):
            Order(**{**row.__dict__, field: wrong})


def test_a_model_is_loaded_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    (tmp_path / "shop_of_tests.py").write_text(
        "from dsqlcdc.columns import BigInt, Row\nclass Order(Row):\n    id: BigInt\n    class Line(Row):\n        id: BigInt\nnumber = 5\n"
    )
    (tmp_path / "shop_with_float.py").write_text("from dsqlcdc.columns import Row\nclass Order(Row):\n    total: float\n")
    (tmp_path / "shop_broken.py").write_text("class Order(\n")
    loaded = load_model("shop_of_tests:Order", str(tmp_path))
    assert decode(loaded, b'{"id":7}').model_dump() == {"id": 7}
    assert load_model("shop_of_tests:Order.Line", str(tmp_path)).__qualname__ == "Order.Line"
    for path, word in {
        "shop_of_tests": "module:Class", ":Order": "module:Class", "shop_of_tests:": "module:Class",
        "no_such_shop:Order": "ModuleNotFoundError",
        "shop_of_tests:Ordr": "Ordr", "shop_of_tests:number": "pydantic model", "shop_with_float:Order": "Double",
        "shop_broken:Order": "SyntaxError",
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=word):
            load_model(path, str(tmp_path))


def _with(image: bytes, **columns: Any) -> bytes:
    return json.dumps(json.loads(image) | columns).encode()


def _without(image: bytes, column: str) -> bytes:
    return json.dumps({name: value for name, value in json.loads(image).items() if name != column}).encode()

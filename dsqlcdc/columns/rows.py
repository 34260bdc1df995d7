"""Rows by a model: images decoded into instances, instances written in the JSON form of sinks and back to the wire."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final, TypeVar, cast

import msgspec
from pydantic import BaseModel, ConfigDict, ValidationError

from dsqlcdc.columns.check import allows_null, check_model, places_of

_encode: Final = msgspec.json.Encoder().encode
_Model = TypeVar("_Model", bound=BaseModel)
_OWN_CODE: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a model's own validators raise beside ValidationError when they meet a value they do not expect."""


class RowError(ValueError):
    """A row that does not fit its model. Names the column, what came (never the value: it may be secret) and the rule.

    `findings` are all of them, as (column, what came, rule).
    """

    def __init__(self, model: type[BaseModel], findings: list[tuple[str, str, str]]) -> None:
        self.findings = tuple(findings)
        self.column, self.got, self.rule = findings[0]
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        column = f"column {self.column}: " if self.column else ""
        super().__init__(f"{model.__name__}: {column}{self.got}: {self.rule}{more}")


class Row(BaseModel):
    """The base of row models: one field a column, each of a type of dsqlcdc.columns.

        class Order(Row):
            id: BigInt
            total: Numeric
            paid_at: Timestamptz | None
            note: Text | None

    Columns the model does not know are kept, in `model_extra`, as sent; `class Order(Row, extra="forbid")` refuses them. A column that is
    absent is NULL (spec §5). A field that is not Optional refuses NULL: DSQL sends null even for a NOT NULL column where it cannot
    represent the value, so a column that must never stop a row is declared Optional. A column whose name Python or pydantic does not
    like is given by alias: `class_: Text = Field(alias="class")`. Instances are frozen. An annotation that would misread what DSQL sends
    (datetime, float, bytes …) raises ConfigError when the class is made.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, protected_namespaces=(), cache_strings="keys")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if cls.__pydantic_fields_complete__:
            cls._absent_is_null()
            check_model(cls)

    @classmethod
    def _absent_is_null(cls) -> None:
        bare = [field for field in cls.model_fields.values() if field.is_required() and allows_null(field.annotation)]
        for field in bare:
            field.default = None
        if bare:
            cls.model_rebuild(force=True)

    @classmethod
    def model_rebuild(cls, **kwargs: Any) -> bool | None:
        """As pydantic's; afterwards an absent Optional column is NULL also in a model that had to wait for a name."""
        waited = not cls.__pydantic_fields_complete__
        done = super().model_rebuild(**kwargs)
        if waited and cls.__pydantic_fields_complete__:
            cls._absent_is_null()
        return done


class _Plan(msgspec.Struct, frozen=True, gc=False):
    validate: Callable[..., Any]
    to_json: tuple[tuple[str, str, Callable[[Any], Any] | None], ...]
    to_wire: tuple[tuple[str, str, Callable[[Any], Any] | None], ...]
    kinds: dict[str, str]


@cache
def _plan(model: type[BaseModel]) -> _Plan:
    places = places_of(model)
    return _Plan(
        model.__pydantic_validator__.validate_json,
        tuple((place.attribute, place.column, place.kind.to_json if place.kind else None) for place in places),
        tuple((place.attribute, place.column, place.kind.to_wire if place.kind else None) for place in places),
        {place.column: place.kind.name if place.kind else "" for place in places},
    )


def decode(model: type[_Model], image: bytes | msgspec.Raw) -> _Model:
    """Decode an image (the JSON object of `after` or `before`, as sent). Raises RowError; ConfigError if the model is unfit."""
    plan = _plan(model)
    try:
        row: _Model = plan.validate(image if type(image) is bytes else bytes(image), strict=True)
    except ValidationError as error:
        raise _row_error(model, plan, error) from None
    except _OWN_CODE as error:
        raise RowError(model, [("", "the row", f"the model's own code raised {type(error).__name__}")]) from None
    if row.__pydantic_extra__:
        for name, value in row.__pydantic_extra__.items():
            if not _holds(value):
                raise RowError(model, [(name, _got(value), "an unknown column with a number that cannot be kept exactly")])
    return row


def row_json(row: BaseModel) -> bytes:
    """The documented JSON form (table in dsqlcdc.columns): one JSON object on one line, every column of the model, then the unknown ones.

    Raises RowError where the model's own validators left a value that is not of the column's type.
    """
    values = row.__dict__
    form: dict[str, Any] = {}
    try:
        for attribute, name, write in _plan(type(row)).to_json:
            value = values[attribute]
            form[name] = value if write is None or value is None else write(value)
        return _written(form, row)
    except (*_OWN_CODE, RecursionError) as error:
        raise RowError(type(row), [("", "the row", f"it cannot be written as JSON ({type(error).__name__})")]) from None


def wire(row: BaseModel) -> bytes:
    """The image as DSQL would send it: the inverse of decode. A column that was absent stays absent. Raises RowError like row_json."""
    values = row.__dict__
    image: dict[str, Any] = {}
    try:
        for attribute, name, write in _plan(type(row)).to_wire:
            value = values[attribute]
            if value is not None:
                image[name] = value if write is None else write(value)
            elif attribute in row.model_fields_set:
                image[name] = None
        return _written(image, row)
    except _OWN_CODE as error:
        raise RowError(type(row), [("", "the row", f"it cannot be written as DSQL sends it ({type(error).__name__})")]) from None


def _written(form: dict[str, Any], row: BaseModel) -> bytes:
    extra = row.__pydantic_extra__
    return _encode(form | extra if extra else form)


def _holds(value: Any) -> bool:
    """No number in it became an infinity, which JSON has no word for."""
    match value:
        case float():
            return math.isfinite(value)
        case list():
            return all(map(_holds, cast(Sequence[object], value)))
        case dict():
            return all(map(_holds, cast(dict[str, Any], value).values()))
        case _:
            return True


_JSON_WORDS: Final[dict[type, str]] = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
}
_NULL_RULE: Final = (
    "the model says the column is never NULL. DSQL sends null even for a NOT NULL column where it cannot represent the value, "
    "and an absent column is NULL: declare it Optional (`| None`)"
)


_PLAIN_RULES: Final = (
    "int_type", "bool_type", "string_type", "list_type", "literal_error", "enum", "greater_than", "less_than", "multiple_of",
)  # fmt: skip
"""Kinds of pydantic's findings (or how they begin) whose words hold nothing of the value."""


def _rule(kind: str, message: str) -> str:
    if kind.startswith(("dsql_", *_PLAIN_RULES)):
        return message
    return "a uuid is a string 8-4-4-4-12" if kind.startswith("uuid_") else f"refused ({kind})"


def _got(value: Any) -> str:
    return _JSON_WORDS.get(value.__class__, "a value")


def _row_error(model: type[BaseModel], plan: _Plan, error: ValidationError) -> RowError:
    findings: list[tuple[str, str, str]] = []
    for detail in error.errors(include_url=False, include_context=False):
        column = str(detail["loc"][0]) if detail["loc"] else ""
        kind, value = detail["type"], detail.get("input")
        if kind == "missing":
            findings.append((column, "absent", _NULL_RULE))
        elif value is None and column in plan.kinds:
            findings.append((column, "null", _NULL_RULE))
        elif kind == "extra_forbidden":
            findings.append((column, _got(value), 'a column the model does not know, and it says extra="forbid"'))
        elif kind in ("value_error", "assertion_error"):
            findings.append((column, _got(value), "refused by a validator of the model"))
        elif kind == "json_invalid":
            findings.append(("", "the image", "it is not valid JSON"))
        elif kind == "model_type":
            findings.append(("", _got(value), "an image is a JSON object"))
        else:
            rule = _rule(kind, detail["msg"])
            named = plan.kinds.get(column)
            findings.append((column, _got(value), f"{named}: {rule}" if named else rule))
    return RowError(model, findings)

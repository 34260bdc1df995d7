"""What a row model may be: every field a column type, absent the same as NULL, nothing dropped or altered on the way."""

from __future__ import annotations

import datetime as dt
import enum
import importlib
import sys
import types
import uuid
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec
from pydantic import BaseModel, RootModel
from pydantic.fields import FieldInfo

from dsqlcdc.columns.kinds import COLUMNS, Column
from dsqlcdc.errors import ConfigError, Fault

_USE: Final[Mapping[Any, str]] = {
    dt.datetime: "Timestamptz or Timestamp: pydantic reads a whole number as seconds, DSQL sends microseconds",
    dt.date: "Date: DSQL sends days since 1970",
    dt.time: "Time or Timetz: DSQL sends microseconds since midnight",
    dt.timedelta: "Interval: pydantic reads a number as seconds, DSQL sends microseconds",
    bytes: "Bytea: DSQL sends Base64",
    bytearray: "Bytea: DSQL sends Base64",
    Decimal: "Numeric: DSQL sends a string, with NaN and infinities",
    float: "Double or Real: DSQL sends NaN and infinities as strings; for a numeric use Numeric",
    dict: "Json: DSQL sends a string that holds the JSON text",
    list: "Json, or OidVector: DSQL sends JSON as a string",
    tuple: "OidVector",
    object: "a column type, or leave the column out: unknown columns are kept",
    Any: "a column type, or leave the column out: unknown columns are kept",
}
_AS_SENT: Final = (int, str, bool, uuid.UUID)
"""Plain annotations that strict JSON validation reads as DSQL sends them."""
_ALTERING: Final = ("str_strip_whitespace", "str_to_lower", "str_to_upper", "str_max_length", "coerce_numbers_to_str")


class Place(msgspec.Struct, frozen=True):
    """One field of a model: the attribute, the column's name on the wire, its column type (None for a plain one), may it be NULL."""

    attribute: str
    column: str
    kind: Column | None
    optional: bool


_LINT = "dsqlcdc config lint CONFIG"


def load_model(path: str, directory: str | None = None) -> type[BaseModel]:
    """Import the row model that `path` names, as in "shop.models:Order", and check it.

    `directory` (the config file's) is searched behind everything that is installed. Raises ConfigError.
    """
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise ConfigError(f"model {path!r} is no import path", why="it reads module:Class, like shop.models:Order", run=_LINT, code="E070")
    if directory is not None and directory not in sys.path:
        sys.path.append(directory)
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except ConfigError:
        raise
    except (ImportError, SyntaxError, AttributeError, NameError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"model {path!r} cannot be imported", why=why, run=f"python -c 'import {module_name}'", code="E070") from error
    check_model(found)
    model: type[BaseModel] = found
    return model


def check_model(model: Any) -> None:
    """Raise ConfigError, holding every finding, unless `model` is a pydantic model that reads rows rightly and loses nothing."""
    places_of(model)


def places_of(model: Any) -> tuple[Place, ...]:
    """The fields of a checked model, in order. Raises ConfigError like check_model."""
    where = f"model {getattr(model, '__module__', '?')}:{getattr(model, '__qualname__', type(model).__name__)}"
    if not (isinstance(model, type) and issubclass(model, BaseModel)) or issubclass(model, RootModel):
        raise ConfigError("a row model is a pydantic model", where=where, why="derive it from dsqlcdc.columns.Row", run=_LINT, code="E071")
    return _places(model, where)


@cache
def _places(model: type[BaseModel], where: str) -> tuple[Place, ...]:
    if not model.__pydantic_fields_complete__:
        try:
            model.model_rebuild()
        except NameError as error:
            why = f"it names what is not defined: {error.name}"
            raise ConfigError("the row model is not complete", where=where, why=why, run=_LINT, code="E071") from error
    faults = _config_faults(model, where)
    places: list[Place] = []
    for attribute, field in model.model_fields.items():
        try:
            places.append(_place(model, attribute, field, where))
        except Fault as fault:
            faults.append(fault)
    names = [place.column for place in places]
    for twice in sorted({name for name in names if names.count(name) > 1}):
        faults.append(_fault(f"two fields read the column {twice!r}", where, "give each field a column of its own"))
    if faults:
        first = faults[0]
        raise ConfigError(first.what, where=where, why=first.why, run=_LINT, code="E072", findings=faults)
    return tuple(places)


def types_of(model: type[BaseModel]) -> dict[str, str]:
    """The PostgreSQL type of each column of a checked model, by the column's name. Raises ConfigError like check_model."""
    return {place.column: place.kind.name if place.kind is not None else _plain_type(model, place) for place in places_of(model)}


def _plain_type(model: type[BaseModel], place: Place) -> str:
    plain = _split(model.model_fields[place.attribute].annotation, ())[0]
    return {int: "bigint", bool: "boolean", uuid.UUID: "uuid"}.get(plain, "text")


def allows_null(annotation: Any) -> bool:
    """The annotation is `X | None`, possibly inside Annotated."""
    return _split(annotation, ())[1]


def _fault(what: str, where: str, why: str) -> Fault:
    return Fault(what, where=where, why=why, run=_LINT, code="E072")


def _config_faults(model: type[BaseModel], where: str) -> list[Fault]:
    faults: list[Fault] = []
    config: Mapping[str, Any] = model.model_config
    if config.get("extra") not in ("allow", "forbid"):
        why = 'unknown columns would be lost: set extra="allow" (as Row does) or extra="forbid"'
        faults.append(_fault('the model has extra="ignore"', where, why))
    altering = [option for option in _ALTERING if config.get(option)]
    return faults + [_fault(f"the model sets {option}", where, "it would alter or refuse what DSQL sends") for option in altering]


def _place(model: type[BaseModel], attribute: str, field: FieldInfo, where: str) -> Place:
    where = f"{where}, field {attribute}"
    alias = field.validation_alias
    if alias is not None and not isinstance(alias, str):
        raise _fault("a column has one name", where, 'give it as Field(alias="…"), not as choices or a path')
    name = alias or attribute
    if name != attribute and (model.model_config.get("validate_by_name") or model.model_config.get("populate_by_name")):
        why = f"a column {attribute!r} would be taken for {name!r}: drop validate_by_name"
        raise _fault("the field is read by alias and by name", where, why)
    plain, optional, metadata = _split(field.annotation, tuple(field.metadata))
    if not field.is_required() and field.default is not None:  # with a factory it is undefined, not None
        raise _fault("the field has a default", where, "a column that is absent is NULL: only `= None` says so")
    if not field.is_required() and not optional:
        raise _fault("the field has the default None but is not Optional", where, "write `X | None`")
    if optional and field.is_required():
        raise _fault("the field is Optional without a default", where, "a column that is absent is NULL: add `= None`, or derive from Row")
    return Place(attribute, name, _kind(plain, metadata, where), optional)


def _kind(plain: Any, metadata: tuple[Any, ...], where: str) -> Column | None:
    annotation: Any = plain
    marks = [item for item in metadata if isinstance(item, Column)]
    if len(marks) == 1:
        return marks[0]
    if isinstance(plain, type) and plain in COLUMNS:
        return COLUMNS[plain]
    origin = get_origin(plain)
    if plain in _AS_SENT or (origin is Literal and all(type(value) in (int, str, bool) for value in get_args(plain))):
        return None
    if isinstance(plain, type) and issubclass(plain, enum.Enum) and all(type(member.value) in (int, str) for member in plain):
        return None
    named: str = getattr(annotation, "__name__", None) or str(annotation)
    use = _USE.get(origin or plain, "a type of dsqlcdc.columns")
    raise _fault(f"{named} would misread what DSQL sends", where, f"use {use}")


def _split(annotation: Any, metadata: tuple[Any, ...]) -> tuple[Any, bool, tuple[Any, ...]]:
    """The annotation without None and Annotated, whether None was in it, and all metadata."""
    origin = get_origin(annotation)
    if origin is Annotated:
        plain, *more = get_args(annotation)
        return _split(plain, (*metadata, *more))
    if origin in (Union, types.UnionType):
        others = [part for part in get_args(annotation) if part is not type(None)]
        if len(others) == 1:
            plain, _, marks = _split(others[0], metadata)
            return plain, True, marks
    return annotation, False, metadata

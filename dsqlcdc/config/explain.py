"""pydantic's errors as findings: what is wrong in the file's own words, where, and what to write."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence, Sized
from typing import Any, cast

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from dsqlcdc.config.findings import Findings, nearest
from dsqlcdc.config.models import NAME
from dsqlcdc.config.tree import Path
from dsqlcdc.options import unit_of
from dsqlcdc.units import format_duration, format_size

_KINDS = {
    "string_type": ("a string is expected", "Put quotes around it"),
    "int_type": ("a whole number is expected", ""),
    "int_parsing": ("a whole number is expected", ""),
    "int_from_float": ("a whole number is expected", ""),
    "bool_type": ("true or false is expected", ""),
    "bool_parsing": ("true or false is expected", ""),
    "dict_type": ("a mapping (key: value) is expected", ""),
    "model_type": ("a mapping (key: value) is expected", ""),
    "model_attributes_type": ("a mapping (key: value) is expected", ""),
    "tuple_type": ("a list is expected", "Write [ ] around it"),
    "list_type": ("a list is expected", "Write [ ] around it"),
    "path_type": ("a path is expected", "Put quotes around it"),
    "string_too_short": ("it is empty", ""),
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def explain(
    errors: Sequence[ErrorDetails], findings: Findings, model: type[BaseModel] | None, base: Path = (), also: Sequence[str] = ()
) -> None:
    """Report each error of a validation whose data stands at `base`. `also`: further keys that are known there."""
    # each bad item has its own finding; where nothing else is wrong everything is told, for a refusal is never without a finding
    for error in [error for error in errors if not _echo(error)] or errors:
        path = (*base, *error["loc"])
        _explain(error, findings, path, _keys(model, error["loc"][:-1]) + (tuple(also) if len(error["loc"]) == 1 else ()), model)


def _echo(error: ErrorDetails) -> bool:
    """Is this list too short only because pydantic counts what was left when bad items were out?"""
    given, least = error["input"], error.get("ctx", {}).get("min_length", 1)
    return error["type"] == "too_short" and isinstance(given, (list, tuple, dict)) and len(cast("Sized", given)) >= least


def _explain(error: ErrorDetails, findings: Findings, path: Path, keys: tuple[str, ...], model: type[BaseModel] | None) -> None:
    kind, context = error["type"], error.get("ctx", {})
    name = _name(path)
    match kind:
        case "extra_forbidden":
            why = f"the keys here are {', '.join(keys)}" if keys else "no keys are known here"
            findings.at("E010", path, f"unknown key {name!r}", why=why, fix=nearest(name, keys) or "Remove it", key=True)
        case "missing":
            findings.at("E011", path, f"the key {name!r} is missing", why="it has no default", fix=f"Add {name}: …")
        case "union_tag_not_found":
            findings.at("E011", (*path, "type"), "the key 'type' is missing", why="it says which kind is meant", fix="Add type: …")
        case "literal_error" | "enum" | "union_tag_invalid":
            _choice(error, findings, path)
        case "greater_than_equal" | "greater_than" | "less_than_equal" | "less_than":
            _bound(error, findings, path, model)
        case "string_pattern_mismatch":
            findings.at("E013", path, f"a wrong value for {name!r}", why=_pattern(name, str(context.get("pattern", ""))))
        case "value_error":
            _value(error, findings, path, model)
        case "too_short" | "string_too_short" if isinstance(error["input"], (str, SecretStr)) and context.get("min_length", 1) > 1:
            least = context["min_length"]
            findings.at("E013", path, f"a wrong value for {name!r}", why="it is too short", fix=f"Write at least {least} characters")
        case "too_short":
            fix = "Name at least one" if _required(model, error["loc"]) else "Name at least one, or leave the key out"
            example = ", as in lake: {type: s3, bucket: NAME}" if path == ("sinks",) else ""
            findings.at("E013", path, f"a wrong value for {name!r}", why="it is empty", fix=fix + example)
        case _:
            why, fix = _KINDS.get(kind, (error["msg"], ""))
            at = path[:-1] if path and path[-1] == "[key]" else path
            findings.at("E013", at, f"a wrong value for {_name(at)!r}", why=why, fix=fix)


def _name(path: Path) -> str:
    """How a place is called: by its key; an item of a list by its list's."""
    return next((part for part in reversed(path) if isinstance(part, str)), "the file")


def _required(model: type[BaseModel] | None, path: Sequence[str | int]) -> bool:
    """Has the key at this place no default?"""
    here: Any = model
    for part in path[:-1]:
        here = _step(here, part)
    return any(one.model_fields[str(path[-1])].is_required() for one in _models(here) if path[-1] in one.model_fields)


def _choice(error: ErrorDetails, findings: Findings, path: Path) -> None:
    context = error.get("ctx", {})
    if error["type"] == "union_tag_invalid":
        path, given = (*path, "type"), context.get("tag", "")
    else:
        given = error["input"]
    words = re.findall(r"'([^']*)'", str(context.get("expected") or context.get("expected_tags") or ""))
    at = _name(path)
    shown = f"{given!r} is" if isinstance(given, str) else "this is"
    findings.at("E012", path, f"{shown} not a choice of {at!r}", why=f"choices: {', '.join(words)}", fix=nearest(given, words))


def _bound(error: ErrorDetails, findings: Findings, path: Path, model: type[BaseModel] | None) -> None:
    word, symbol = _BOUNDS[error["type"]]
    limit = error.get("ctx", {})[symbol]
    field = _field(model, error["loc"])
    match unit_of(field) if field is not None else None:
        case "size":
            text = format_size(limit)
        case "duration":
            text = format_duration(limit)
        case _:
            text = f"{limit:g}" if isinstance(limit, float) else str(limit)
    name = _name(path)
    fix = f"Write {name}: {text}" if symbol in ("ge", "le") else f"Write {word} {text}"
    findings.at("E013", path, f"{name!r} is out of bounds", why=f"it must be {word} {text}", fix=fix)


def _value(error: ErrorDetails, findings: Findings, path: Path, model: type[BaseModel] | None) -> None:
    text = str(error.get("ctx", {}).get("error", error["msg"]))
    subject = re.match(r"[a-z_]+", text)
    if subject is not None and subject[0] in _keys(model, error["loc"]) and _whole(model, error["loc"]):
        path = (*path, subject[0])  # what a block's own validator says begins with the key it is about
    is_key = bool(path) and path[-1] == "[key]"
    at = path[:-1] if is_key else path
    name = _name(at)
    if text.startswith("choices: "):
        given = error["input"]
        words = re.findall(r"[a-z_]+", text.removeprefix("choices: ").split(", or ")[0])
        findings.at("E012", at, f"{given!r} is not a choice of {name!r}", why=text, fix=nearest(given, words))
        return
    why, _, fix = text.rpartition(": write ")
    what = f"a wrong name {name!r}" if is_key else f"a wrong value for {name!r}"
    findings.at("E013", at, what, why=why or text, fix=f"Write {fix}" if why else "", key=is_key)


def _pattern(name: str, pattern: str) -> str:
    if pattern == NAME:
        return "letters, digits, _ and - are expected"
    return {"region": "a Region such as us-east-1 is expected", "model": "module:Class is expected, such as shop.models:Order"}.get(
        name, f"it must match {pattern}"
    )


def _whole(model: type[BaseModel] | None, path: Sequence[str | int]) -> bool:
    """Does the path lead to a block, not to a value in one?"""
    field = _field(model, path)
    return field is None or bool(_models(field.annotation))


def _field(model: type[BaseModel] | None, path: Sequence[str | int]) -> FieldInfo | None:
    """The field that the path leads to, if it is one."""
    here: Any = model
    for part in path[:-1]:
        here = _step(here, part)
    return next((one.model_fields[str(path[-1])] for one in _models(here) if path[-1] in one.model_fields), None) if path else None


def _keys(model: type[BaseModel] | None, path: Sequence[str | int]) -> tuple[str, ...]:
    """The keys known where an unknown one stands: those of the model that the path leads to."""
    here: Any = model
    for part in path:
        here = _step(here, part)
    models = _models(here)
    return tuple(dict.fromkeys(field.alias or name for one in models for name, field in one.model_fields.items()))


def _step(here: Any, part: str | int) -> Any:
    for one in _models(here):
        if part in one.model_fields:
            return one.model_fields[str(part)].annotation
        tag = one.model_fields.get("type")
        if tag is not None and part in getattr(tag.annotation, "__args__", ()):
            return one
    values: tuple[Any, ...] = getattr(here, "__args__", ())
    return values[-1] if values and getattr(here, "__origin__", None) in (dict, list, tuple) else here


def _models(here: Any) -> list[type[BaseModel]]:
    if inspect.isclass(here) and issubclass(here, BaseModel):
        return [here]
    if getattr(here, "__origin__", None) in (dict, list, tuple):
        return []
    found: list[type[BaseModel]] = []
    for argument in getattr(here, "__args__", ()):
        found += _models(argument)
    return found

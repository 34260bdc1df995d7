"""The config as JSON Schema, for editors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pydantic import BaseModel

from dsqlcdc.config.models import File, SinkCommon
from dsqlcdc.errors import ConfigError
from dsqlcdc.plugins import sink_class, sink_factory, sink_types

_VARIABLE = {"type": "string", "pattern": r"\$\{[A-Za-z_]"}


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the file. Every installed sink type has its branch; one without an `Options` model takes any options."""
    made = File.model_json_schema()
    defs: dict[str, Any] = made.setdefault("$defs", {})
    common = defs.pop("SinkCommon")
    branches = [_branch(kind, common, defs) for kind in sink_types()]
    sinks: dict[str, Any] = made["properties"]["sinks"]
    (pattern,) = sinks.pop("patternProperties")
    sinks |= {"propertyNames": {"pattern": pattern}, "additionalProperties": {"oneOf": branches}}
    made["properties"]["tables"]["additionalProperties"] = False
    opened = cast(dict[str, Any], _open(made))
    opened["$defs"]["variable"] = _VARIABLE
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **opened, "title": "dsqlcdc config"}


def _branch(kind: str, common: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    properties = {name: common["properties"][name] for name in SinkCommon.model_fields if name != "type"}
    branch: dict[str, Any] = {"type": "object", "title": f"sink {kind}", "required": ["type"]}
    branch["properties"] = {"type": {"const": kind}, **properties}
    try:
        model = getattr(sink_class(sink_factory(kind)), "Options", None)
    except ConfigError:
        model = None  # a broken plugin: lint says so; its options are unknown here
    if isinstance(model, type) and issubclass(model, BaseModel):
        own = model.model_json_schema(ref_template=f"#/$defs/{kind}.{{model}}")
        defs.update({f"{kind}.{name}": value for name, value in own.pop("$defs", {}).items()})
        branch["properties"] |= own.get("properties", {})
        branch["required"] += own.get("required", [])
        branch["additionalProperties"] = own.get("additionalProperties", True)
    return branch


def _open(node: Any) -> Any:
    """Let `${VAR}` stand wherever more than any string is asked for."""
    if isinstance(node, list):
        return [_open(item) for item in cast(Sequence[Any], node)]
    if not isinstance(node, dict):
        return node
    made = {key: value if key in ("default", "examples", "required") else _open(value) for key, value in cast(dict[str, Any], node).items()}
    scalar = made.get("type") in ("integer", "number", "boolean") or (made.get("type") == "string" and {"enum", "pattern"} & made.keys())
    if not scalar:
        return made
    about = {key: made.pop(key) for key in ("default", "description", "title") if key in made}
    return {**about, "anyOf": [made, {"$ref": "#/$defs/variable"}]}

"""A config as it was understood, in the form of the file, with secrets masked."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, SecretStr, ValidationError

from dsqlcdc.config.resolved import Config, SinkConfig
from dsqlcdc.options import StrictOptions, unit_of
from dsqlcdc.plugins import sink_class, sink_factory
from dsqlcdc.units import format_duration, format_size

MASK = "***"
_SECRET = re.compile(
    r"secret|^headers$|passw(or)?d|passphrase|pwd|token|credential|authorization|signature|(^|[_-])(auth|keys?)$|api[_-]?key|private", re.I
)
_OPEN = re.compile(r"^(kms_key(_id)?|allow_private|key_columns)$", re.I)
_NAMES_A_KEY = re.compile(r"(arn:[\w-]+:kms:|alias/)[\w:/-]{1,200}|[^\s:]{1,200}\.(pem|key|p8|der)")


def is_secret(name: str, value: object) -> bool:
    """An option of this name is never shown: secret, password, token, key and their like. `key` is where it names a key of KMS, or a file."""
    if not _SECRET.search(name) or _OPEN.match(name):
        return False
    return name != "key" or not isinstance(value, str) or not _NAMES_A_KEY.fullmatch(value)


def show(config: Config) -> dict[str, Any]:
    """The resolved config in the form of the file, every default said, paths relative to where the file is. Secrets show as `***`:
    options with a name of that kind, and the user and the query of every URL."""
    shown: dict[str, Any] = {
        "pipeline": config.pipeline,
        "aws": _block(config.aws),
        "source": _block(config.source),
        "tables": {pattern: _block(table) for pattern, table in config.tables.items()},
        "sinks": {name: _sink(sink) for name, sink in config.sinks.items()},
        "state": _block(config.state),
        "dead_letters": _block(config.dead_letters),
        "fragments": _block(config.fragments),
    }
    if config.http is not None:
        shown["http"] = _block(config.http)
    if config.stream is not None:
        shown["stream"] = _block(config.stream)
    return shown


def secrets_of(data: Any, *, hidden: bool = False) -> Iterator[str]:
    """Every text of a sink's options that may not be shown: under a secret's name, or the user or query of a URL."""
    if isinstance(data, Mapping):
        for name, value in cast(Mapping[str, Any], data).items():
            yield from secrets_of(value, hidden=hidden or is_secret(str(name), value))
    elif isinstance(data, (list, tuple)):
        for value in cast(Sequence[Any], data):
            yield from secrets_of(value, hidden=hidden)
    elif hidden and data is not None and not isinstance(data, bool):
        yield str(data)
    elif isinstance(data, str) and mask_url(data) != data:
        yield data
        try:
            parts = urlsplit(data)
        except ValueError:
            return
        yield from (part for part in (parts.username, parts.password, parts.query) if part)


def mask_url(text: str) -> str:
    """A URL without its user and query; any other text as it is."""
    if "://" not in text:
        return text
    try:
        parts = urlsplit(text)
    except ValueError:
        return MASK
    user, at, host = parts.netloc.rpartition("@")
    if not (at or parts.query or parts.fragment):
        return text
    netloc = f"{MASK}@{host}" if user or at else host
    return urlunsplit((parts.scheme, netloc, parts.path, MASK if parts.query else "", MASK if parts.fragment else ""))


def _sink(sink: SinkConfig) -> dict[str, Any]:
    shown: dict[str, Any] = {"type": sink.type, "order": sink.order}
    for name, value in (("tables", sink.tables), ("ops", sink.ops)):
        if value is not None:
            shown[name] = list(value)
    if sink.start is not None:
        shown["start"] = _moment(sink.start)
    if sink.masks:
        shown["mask"] = {pattern: dict(columns) for pattern, columns in sink.masks.items()}
    if sink.mask_key is not None:
        shown["mask_key"] = MASK
    return shown | {name: _mask(name, value) for name, value in _options(sink).items()}


def _options(sink: SinkConfig) -> Mapping[str, Any]:
    """The sink's own options, with defaults where its type publishes a model of them."""
    model = getattr(sink_class(sink_factory(sink.type)), "Options", None)
    if not (inspect.isclass(model) and issubclass(model, StrictOptions)):
        return sink.options
    try:
        return _block(model.model_validate(sink.options))
    except ValidationError:
        return sink.options  # its factory makes something else of them before


def _mask(name: str, value: Any) -> Any:
    if is_secret(name, value) and value is not None and not isinstance(value, bool):
        return [MASK] * len(cast(Sequence[Any], value)) if isinstance(value, (list, tuple)) else MASK
    if isinstance(value, Mapping):
        return {str(key): _mask(str(key), inner) for key, inner in cast(Mapping[str, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [_mask(name, inner) for inner in cast(Sequence[Any], value)]
    return mask_url(value) if isinstance(value, str) else value


def _block(block: StrictOptions) -> dict[str, Any]:
    return {name: _value(name, unit_of(field), getattr(block, name)) for name, field in type(block).model_fields.items()}


def _value(name: str, unit: str | None, value: Any) -> Any:
    if value is None:
        return None
    if unit == "duration":
        return format_duration(value)
    if unit == "size":
        return format_size(value)
    if name == "start":
        return _moment(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, tuple):
        return [_value(name, None, one) for one in cast(Sequence[Any], value)]
    if isinstance(value, Mapping):
        return {str(key): _value(str(key), None, inner) for key, inner in cast(Mapping[str, Any], value).items()}
    return _block(value) if isinstance(value, BaseModel) and isinstance(value, StrictOptions) else value


def _moment(value: str | float) -> str:
    return value if isinstance(value, str) else datetime.fromtimestamp(value, UTC).isoformat()

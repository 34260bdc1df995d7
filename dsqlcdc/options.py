"""What the options of sinks, and the config itself, are declared with: a strict frozen model, sizes, durations.

    class Options(StrictOptions):
        bucket: str
        roll_bytes: Size = size("64MiB", least="1MiB")
        timeout: Duration = duration("30s")

A model's own validator begins its text with the key it is about, and may end it with `: write …`: a finding is then placed at that key,
with that fix. A sink class that names its model `Options` and its factory a classmethod has its options in `dsqlcdc config schema`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.fields import FieldInfo

from dsqlcdc.units import parse_duration, parse_size

__all__ = ["Duration", "InputFile", "Size", "StrictOptions", "Tls", "duration", "is_read", "size", "unit_of"]


class StrictOptions(BaseModel):
    """Unknown keys are errors, values are frozen, and what was put in never shows in an error (it may be a secret)."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


def _size(value: object) -> int:
    return parse_size(value)


def _duration(value: object) -> float:
    return parse_duration(value)


Size = Annotated[
    int,
    BeforeValidator(_size),
    WithJsonSchema({"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*(B|KiB|MiB|GiB)\s*$", "examples": ["64MiB"]}),
]
"""Bytes, written `64MiB`."""

Duration = Annotated[
    float,
    BeforeValidator(_duration),
    WithJsonSchema({"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*(ms|s|m|h)\s*$", "examples": ["30s"]}),
]
"""Seconds, written `30s`."""


_READ = "read"
InputFile = Annotated[Path, _READ]
"""A file that is read, relative to the config: `config lint` finds it missing. (What is written to is a plain Path.)"""


class Tls(StrictOptions):
    """Certificates of a sink that speaks HTTPS, as files in PEM; relative paths are relative to the config."""

    ca: InputFile | None = Field(default=None, description="who signs the other side's certificate; null: whom the system trusts")
    certificate: InputFile | None = Field(default=None, description="the client certificate, with its chain")
    key: InputFile | None = Field(default=None, description="the client certificate's key, not encrypted; null: in the same file")

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if self.key is not None and self.certificate is None:
            raise ValueError("key needs certificate: write certificate: FILE beside it")
        return self


def is_read(field: FieldInfo) -> bool:
    """Is a field of a model an InputFile, or one of several, or optional?"""
    parts = [part for one in get_args(field.annotation) for part in getattr(one, "__metadata__", ())]
    return _READ in (*field.metadata, *parts)


def unit_of(field: FieldInfo) -> Literal["size", "duration"] | None:
    """What a field of a model is written as, if it is a Size or a Duration."""
    optional = [part for one in get_args(field.annotation) for part in getattr(one, "__metadata__", ())]  # of `Duration | None`
    functions = [part.func for part in (*field.metadata, *optional) if isinstance(part, BeforeValidator)]
    if _size in functions:
        return "size"
    return "duration" if _duration in functions else None


def size(default: str, *, least: str = "1B", description: str | None = None) -> Any:
    """The Field of a Size with a default, written as a user would write it, and the least that makes sense."""
    extra: dict[str, Any] = {"default": default}
    return Field(default=parse_size(default), ge=parse_size(least), description=description, json_schema_extra=extra)


def duration(default: str, *, least: str = "1ms", description: str | None = None) -> Any:
    """The Field of a Duration with a default, written as a user would write it, and the least that makes sense."""
    extra: dict[str, Any] = {"default": default}
    return Field(default=parse_duration(default), ge=parse_duration(least), description=description, json_schema_extra=extra)

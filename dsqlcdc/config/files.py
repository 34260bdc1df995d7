"""Files that a sink's options name: found missing at lint, not at the first run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from pydantic import BaseModel

from dsqlcdc.config.findings import Findings
from dsqlcdc.config.tree import Path as Key


def check_files(options: BaseModel, directory: Path, at: Key, findings: Findings) -> None:
    """Report each file named in validated `options`, whose data stands at `at`, that is not there. Relative to `directory`."""
    for key, file in _named(options):
        if not (directory / file).is_file():
            why = "there is a directory" if (directory / file).is_dir() else "there is none"
            fix = f"Put it at {directory / file}, or write another path"
            findings.at("E043", (*at, *key), f"the file {str(file)!r} cannot be used", why=why, fix=fix)


def _named(value: object) -> Iterator[tuple[Key, Path]]:
    if isinstance(value, Path):
        yield (), value
    elif isinstance(value, BaseModel):
        yield from _within({name: getattr(value, name) for name in type(value).model_fields})
    elif isinstance(value, Mapping):
        yield from _within(cast("Mapping[str, object]", value))


def _within(values: Mapping[str, object]) -> Iterator[tuple[Key, Path]]:
    for name, inner in values.items():
        for key, file in _named(inner):
            yield (name, *key), file

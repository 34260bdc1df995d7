"""Files that a sink's options name: found missing at lint, not at the first run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from pydantic import BaseModel

from dsqlcdc.config.findings import Findings
from dsqlcdc.config.tree import Path as Key
from dsqlcdc.options import is_read


def check_files(options: BaseModel, directory: Path, at: Key, findings: Findings) -> None:
    """Report each InputFile in validated `options`, whose data stands at `at`, that is not there. Relative to `directory`."""
    for key, file in _named(options):
        if not (directory / file).is_file():
            why = "there is a directory" if (directory / file).is_dir() else "there is none"
            fix = f"Put it at {directory / file}, or write another path"
            findings.at("E043", (*at, *key), f"the file {str(file)!r} cannot be used", why=why, fix=fix)


def _named(options: BaseModel) -> Iterator[tuple[Key, Path]]:
    for name, field in type(options).model_fields.items():
        value: object = getattr(options, name)
        if isinstance(value, BaseModel):
            yield from (((name, *key), file) for key, file in _named(value))
        elif not is_read(field):
            continue  # what a sink of somebody's own writes need not be there yet
        elif isinstance(value, Path):
            yield (name,), value
        elif isinstance(value, Mapping):
            yield from (((name, key), file) for key, file in cast("Mapping[str, Path]", value).items())

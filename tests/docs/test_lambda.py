"""The Lambda chapter says what the code does, and its commands are AWS's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from dsqlcdc.hosts import aws_lambda, emf, lambda_config

from .reading import REFERENCE, ROOT, aws_commands, blocks, rows


def _chapter(language: str) -> str:
    (block,) = blocks_of(language)
    return block


def blocks_of(language: str) -> Iterator[str]:
    return (block.text for block in blocks(REFERENCE, language) if block.heading == "Lambda")


def test_every_metric_is_listed_with_its_unit_and_meaning() -> None:
    listed = {
        cells[0].strip("`"): (cells[1], cells[2].rstrip(".")) for cells in rows(REFERENCE, "Lambda") if cells[0].startswith("`dsqlcdc_")
    }
    assert listed == dict(emf.MEANINGS)


def test_every_variable_is_listed_and_read() -> None:
    listed = {cells[0].strip("`") for cells in rows(REFERENCE, "Lambda") if cells[0].startswith("`DSQLCDC_")}
    sources = "".join(Path(module.__file__ or "").read_text(encoding="utf-8") for module in (aws_lambda, lambda_config))
    assert listed == set(re.findall(r'"(DSQLCDC_[A-Z_]+)"', sources))


def test_the_aws_commands_are_known_to_aws() -> None:
    commands = [(command.service, command.operation) for command in aws_commands(_chapter("bash"))]
    assert commands == [("lambda", "CreateFunction"), ("lambda", "CreateEventSourceMapping")]


def test_the_handlers_are_there_and_the_zip_is_built_by_make() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    for name in re.findall(r"dsqlcdc\.hosts\.aws_lambda\.(\w+)", text):
        assert callable(getattr(aws_lambda, name))
    assert "lambda-zip:" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_view_gives_one_line_for_each_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip
    import json

    def line(n: int, version: int, shard: str) -> str:
        names = {"op": "insert", "schema": "public", "table": "orders", "key": {"id": n}, "row": {"id": n}}
        return json.dumps({**names, "version": version, "shard": shard, "sequence": "1"})

    folder = tmp_path / "lake" / "data" / "public.orders" / "dt=2027-01-15" / "hour=08"
    folder.mkdir(parents=True)
    one = "\n".join([line(1, 1, "a"), line(2, 1, "a")])
    two = "\n".join([line(2, 1, "b"), line(2, 2, "b")])
    for name, text in (("one", one), ("two", two), ("void", "")):
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    monkeypatch.chdir(tmp_path)
    found = duckdb.sql(_chapter("sql")).fetchall()
    assert len(found) == 3

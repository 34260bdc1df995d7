"""The public face: names that stay, and what an import of them costs."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys

import pytest

from tests.house.reading import sources

PUBLIC = {
    "dsqlcdc": {"Change", "Misconfigured", "Op", "Setback", "Sink", "Table", "Unavailable", "Verdict", "__version__"},
    "dsqlcdc.contract": {
        "Batching", "Change", "Context", "Digests", "Known", "Misconfigured", "Op", "Outcome", "Progress", "Resume", "Setback", "Sink", "Table",
        "Unavailable", "Verdict",
    },
    "dsqlcdc.errors": {"ConfigError", "Fault", "Held", "Lost", "Misconfigured", "Poisoned", "Stopped", "Unavailable"},
    "dsqlcdc.columns": {
        "BigInt", "Boolean", "Bpchar", "Bytea", "Char", "Column", "Date", "Double", "Integer", "Interval", "Json", "Name", "Numeric", "Oid",
        "OidVector", "Real", "Row", "RowError", "SmallInt", "Text", "Time", "Timestamp", "Timestamptz", "Timetz", "Uuid", "Varchar",
        "check_model", "decode", "load_model", "row_json", "wire",
    },
}  # fmt: skip
"""A name that goes, or comes, is a change that users see: it needs a line in the changelog, and this table."""


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_the_public_names_are_these(module: str) -> None:
    loaded = importlib.import_module(module)
    defined = [node.name for node in ast.parse(sources()[module]).body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    names = getattr(loaded, "__all__", None) or [name for name in defined if not name.startswith("_")]
    assert set(names) == PUBLIC[module]
    assert [name for name in names if not hasattr(loaded, name)] == []


def _loaded_by(statement: str) -> set[str]:
    """Top-level modules beyond the standard library that a fresh interpreter loads for the statement."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*{{name.split('.')[0] for name in set(sys.modules) - before}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split()) - set(sys.stdlib_module_names)


@pytest.mark.parametrize("module", ["dsqlcdc", "dsqlcdc.contract", "dsqlcdc.errors"])
def test_importing_the_contract_loads_msgspec_and_nothing_else(module: str) -> None:
    assert _loaded_by(f"import {module}") - _loaded_by("import msgspec") == {"dsqlcdc"}


def test_the_measure_of_what_is_loaded_sees_a_library() -> None:
    """Control."""
    assert "pydantic" in _loaded_by("import dsqlcdc.columns")


def test_row_models_load_no_client_of_aws() -> None:
    assert not _loaded_by("import dsqlcdc.columns") & {"aiobotocore", "aiohttp", "boto3", "botocore", "orjson"}

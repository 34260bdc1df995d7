"""Sinks come through one door: unknown, doubled and broken plugins each say what is the matter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dsqlcdc.errors import ConfigError
from dsqlcdc.plugins import sink_class, sink_factory, sink_types
from dsqlcdc.sinks_builtin import Drop


def plugin(folder: Path, package: str, entry: str) -> None:
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[dsqlcdc.sinks]\n{entry}\n")


def test_the_built_in_sinks_are_installed() -> None:
    assert {"drop", "opensearch", "s3", "stdout"} <= set(sink_types())
    assert sink_class(sink_factory("drop")) is Drop


def test_an_unknown_type_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"E014.*drop, opensearch, s3, stdout.*Did you mean 'drop'") as raised:
        sink_factory("dropp")
    assert raised.value.code == "E014"


def test_two_plugins_of_one_name_are_an_error_that_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(tmp_path, "acme-one", "acme = json:loads")
    plugin(tmp_path, "acme-two", "acme = json:dumps")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=re.compile(r"E015.*acme-one.*acme-two")):
        sink_factory("acme")


@pytest.mark.parametrize("target", ["no_such_module_at_all:make", "json:no_such_name", "json:__name__"])
def test_a_broken_plugin_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    plugin(tmp_path, "acme", f"acme = {target}")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=f"E016.*{target.split(':')[0]}"):
        sink_factory("acme")

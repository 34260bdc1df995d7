"""A page that others may reach without a token is warned of, and keeps nothing from running."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsqlcdc.config import load, look, show

from .conftest import BASE

TOKEN = "correct horse battery"


@pytest.mark.parametrize(
    ("http", "warned"),
    [
        ("{listen: '127.0.0.1:8080'}", False),
        ("{listen: '[::1]:8080'}", False),
        ("{listen: 'localhost:8080'}", False),
        ("{listen: '127.9.9.9:8080'}", False),
        ("{listen: '0.0.0.0:8080'}", True),
        ("{listen: '[::]:8080'}", True),
        ("{listen: '10.0.0.7:8080'}", True),
        ("{listen: 'dsqlcdc.internal:8080'}", True),
        (f"{{listen: '0.0.0.0:8080', token: '{TOKEN}'}}", False),
    ],
)
def test_beyond_this_machine_without_a_token_is_a_warning(http: str, warned: bool, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"{BASE}http: {http}\n")
    mistakes, warnings = look(path)
    assert (mistakes, [warning.code for warning in warnings]) == ([], ["E046"] if warned else [])
    assert load(path).http is not None


def test_the_token_is_shown_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"{BASE}http: {{listen: '0.0.0.0:8080', token: '{TOKEN}', hosts: [dsqlcdc.shop.svc]}}\n")
    config = load(path)
    assert config.http is not None
    assert (config.http.secret, config.http.hosts) == (TOKEN, ("dsqlcdc.shop.svc",))
    assert show(config)["http"] == {"listen": "0.0.0.0:8080", "token": "***", "hosts": ["dsqlcdc.shop.svc"]}
    assert TOKEN not in repr(config)
    path.write_text(f"{BASE}http: {{listen: x, token: '{TOKEN}'}}\n")
    mistakes, _ = look(path)
    assert mistakes
    assert TOKEN not in "".join(map(str, mistakes))

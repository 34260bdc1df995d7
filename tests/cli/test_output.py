"""What commands say, in words."""

from __future__ import annotations

from dsqlcdc.cli.output import counted


def test_one_is_not_called_many() -> None:
    assert [counted(n, "gap") for n in (0, 1, 2)] == ["0 gaps", "1 gap", "2 gaps"]

"""How a run ended, as its exit code: the first of the list that holds."""

from __future__ import annotations

import msgspec
import pytest

from dsqlcdc.errors import Lost, Misconfigured
from dsqlcdc.hosts.daemon import Result

from .samples import status

DEAD = msgspec.structs.replace(status(), letters=1)
CLEAN = msgspec.structs.replace(status(), letters=0, settled={**status().settled, "dead": 0})


@pytest.mark.parametrize(("once", "code"), [(True, 4), (False, 0)])
def test_dead_letters_are_an_exit_code_of_once_only(once: bool, code: int) -> None:
    assert Result([DEAD], {}, 0, once).exit_code == code
    assert Result([CLEAN], {}, 0, once).exit_code == 0


@pytest.mark.parametrize("once", [True, False])
def test_a_stop_comes_before_a_gap_and_a_gap_before_dead_letters(once: bool) -> None:
    assert Result([DEAD], {"x": Misconfigured("y")}, 1, once).exit_code == 1
    assert Result([DEAD], {"x": Lost("y")}, 0, once).exit_code == 3
    assert Result([DEAD], {}, 1, once).exit_code == 3

"""A sink around another hands on whatever the contract has, or the contract's defaults would answer in the other's place."""

from __future__ import annotations

import pytest

from dsqlcdc.contract import Sink
from dsqlcdc.core.around import Around
from dsqlcdc.core.mask import Masked
from dsqlcdc.hosts.invocation import Kept
from dsqlcdc.traces import Traced

METHODS = {
    name for name, thing in vars(Sink).items() if callable(thing) and (not name.startswith("_") or name in ("__aenter__", "__aexit__"))
}


def test_whatever_the_contract_has_is_handed_on() -> None:
    """A replay that was left to the default would be written as a batch, to a sink that was never resumed."""
    assert {"write", "replay", "resume", "word", "probe", "circuit", "account"} <= METHODS <= vars(Around).keys()


@pytest.mark.parametrize("kind", [Masked, Kept, Traced])
def test_every_wrapper_is_one_of_these(kind: type[Sink]) -> None:
    assert issubclass(kind, Around)

"""The reference's account of the embedded AWS is the code's."""

from __future__ import annotations

from typing import get_args

from aiohttp import web

import dsqlcdc.local
from dsqlcdc.local.cdc import Reason
from dsqlcdc.local.control import Control
from dsqlcdc.local.orders import Rules
from dsqlcdc.local.region import Region
from tests.docs.reading import REFERENCE, named, rows, sections


def routes() -> set[str]:
    app = web.Application()
    Control(Region()).add_to(app)
    return {resource.canonical.removeprefix("/_dsqlcdc/") for resource in app.router.resources()}


def test_every_control_call_is_in_the_reference_and_in_the_packages_docstring() -> None:
    assert {named(cells[0])[0] for cells in rows(REFERENCE, "Control calls")} == routes()
    assert dsqlcdc.local.__doc__ is not None
    assert {call for call in routes() if f"/_dsqlcdc/{call}" not in dsqlcdc.local.__doc__} == set()


def test_every_reason_and_every_rule_of_the_model_is_in_the_reference() -> None:
    model = sections(REFERENCE)["CDC streams, as modelled"]
    assert {reason for reason in get_args(Reason) if f"`{reason}`" not in model} == set()
    (rules,) = [cells[1] for cells in rows(REFERENCE, "Control calls") if cells[0] == "`rules`"]
    assert set(named(rules)) == set(Rules.__struct_fields__)

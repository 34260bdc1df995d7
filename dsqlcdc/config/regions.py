"""AWS's Regions, as botocore's data names them: is one misspelt? Reads that data, without loading botocore."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec

from dsqlcdc.config.findings import nearest

COMPASS = ("north", "south", "east", "west", "central", "northeast", "northwest", "southeast", "southwest")
"""What the last word of every Region's name is one of."""


class Doubt(msgspec.Struct, frozen=True):
    """Why a name may be none of a Region. error: it cannot be one. warning: it may be newer than the list."""

    severity: Literal["error", "warning"]
    why: str
    fix: str


def doubt(region: str) -> Doubt | None:
    """What is to be said of a Region's name; None where it is one, or where no list is at hand."""
    known = regions()
    if not known or region in known:
        return None
    near = nearest(region, [one for one in known if sorted(one) == sorted(region)] or sorted(known))  # letters that changed places, first
    if not any(re.search(form, region) for form in set(known.values())):
        return Doubt("error", "no partition of AWS has Regions of this form", near or "Write for example us-east-1")
    direction = region.split("-")[-2]
    if direction not in COMPASS:
        return Doubt("error", f"Regions are named by where they lie ({', '.join(COMPASS[:5])} …), and {direction!r} is none of it", near)
    return Doubt("warning", "it is not in botocore's list of Regions, so it is misspelt or newer than that", near)


@cache
def regions() -> Mapping[str, str]:
    """Every Region with the form (a regular expression) of its partition's names; empty without botocore's data."""
    spec = find_spec("botocore")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(place) / "data" / "partitions.json"
        if path.is_file():
            partitions = json.loads(path.read_text(encoding="utf-8"))["partitions"]
            return {name: one["regionRegex"] for one in partitions for name in one["regions"] if re.search(one["regionRegex"], name)}
    return {}

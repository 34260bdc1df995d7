"""Sinks are found by the entry-point group `dsqlcdc.sinks`: the built-in ones and a third party's by the same door."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

from dsqlcdc.contract import Context, Sink
from dsqlcdc.errors import ConfigError

GROUP = "dsqlcdc.sinks"
_LINT = "dsqlcdc config lint CONFIG"

SinkFactory = Callable[[Mapping[str, Any], Context], Sink]
"""`factory(options, context)`: checks the options, does no I/O, raises ValueError. See dsqlcdc.contract.Context."""


def sink_types() -> tuple[str, ...]:
    """The names that `type:` may have, sorted."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


REBUILDS = "dsqlcdc.rebuilds"
"""The group of factories that make, of the same options, a sink which fills what is to take the place of a sink's destination."""

AUDITS = "dsqlcdc.audits"
"""The group of factories that make, of the same options, what verifies a sink's destination: `verify` and `digest`."""


def sink_factory(type: str, group: str = GROUP) -> SinkFactory:
    """The factory that a sink type's entry point names.

    Raises ConfigError: E014 for an unknown type (it lists the known ones and the nearest), E015 where two packages offer the type (it
    names both), E016 where the plugin cannot be loaded or is not callable.
    """
    points = {(point.value, _package(point)): point for point in entry_points(group=group, name=type)}
    if not points:
        known = sink_types()
        near = get_close_matches(type, known, n=1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"there is no sink type {type!r}",
            why=f"the types are {', '.join(known) or 'none: nothing is installed'}{hint}",
            run=_LINT,
            code="E014",
        )
    if len(points) > 1:
        offers = " and ".join(sorted(f"{package} ({value})" for value, package in points))
        raise ConfigError(f"two plugins offer the sink type {type!r}", why=f"{offers}: uninstall one of them", run="pip list", code="E015")
    (point,) = points.values()
    try:
        factory = point.load()
    except (ImportError, AttributeError, SyntaxError) as error:
        why = f"{point.value} of {_package(point)} cannot be loaded: {error}"
        raise ConfigError(f"the plugin of sink type {type!r} is broken", why=why, run=_LINT, code="E016") from error
    if not callable(factory):
        raise ConfigError(f"the plugin of sink type {type!r} is broken", why=f"{point.value} is not callable", run=_LINT, code="E016")
    return cast(SinkFactory, factory)


def sink_class(factory: SinkFactory) -> type[Sink] | None:
    """The Sink class that a factory belongs to: itself, or the class whose classmethod it is; None for a plain function."""
    owner = factory if isinstance(factory, type) else getattr(factory, "__self__", None)
    return owner if isinstance(owner, type) and issubclass(owner, Sink) else None


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown package"

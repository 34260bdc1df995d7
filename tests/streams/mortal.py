"""Clients and a store that are killed at the nth call, before it takes effect or after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from dsqlcdc.core.ports import CheckpointStore
from dsqlcdc.streams.clients import SERVICES, Clients

READS = ("get_", "list_", "describe_", "gaps", "load")


class Killed(BaseException):
    """The process died: nothing catches it."""


class Life:
    """Ends at call `last` (from 0; -1 never), before it or `after` it took effect. `calls`: what was called, as service and method.

    With `by_write` only calls that may change something count for `last`: how often a life looks depends on how fast time passes.
    """

    def __init__(self, last: int = -1, after: bool = False, *, by_write: bool = False, watch: Callable[[], None] = lambda: None) -> None:
        self.last, self.after, self.by_write, self.watch = last, after, by_write, watch
        self.calls: list[tuple[str, str]] = []

    @property
    def writes(self) -> list[int]:
        """The numbers of the calls that may have changed something."""
        return [number for number, (_, method) in enumerate(self.calls) if not method.startswith(READS)]

    @property
    def deaths(self) -> list[tuple[int, bool]]:
        """Where such a life may end so that it makes a difference: before each write and after. To die around a call that only reads is to
        die after the write before it."""
        return [(number, after) for number in range(len(self.writes)) for after in (False, True)]

    def mortal(self, name: str, real: Any) -> Any:
        return _Mortal(name, real, self)

    def clients(self, clients: Clients) -> Clients:
        wrapped = {service: self.mortal(service, getattr(clients, service)) for service in SERVICES if service != "sts"}
        return msgspec.structs.replace(clients, **wrapped)

    def store(self, store: CheckpointStore) -> CheckpointStore:
        return self.mortal("store", store)  # type: ignore[no-any-return]


class _Mortal:
    def __init__(self, name: str, real: Any, life: Life) -> None:
        self._name, self._real, self._life = name, real, life

    def __getattr__(self, method: str) -> Any:
        real, life = getattr(self._real, method), self._life

        async def call(*given: Any, **named: Any) -> Any:
            number = len(life.writes if life.by_write else life.calls)
            life.calls.append((self._name, method))
            if life.by_write and method.startswith(READS):
                number = -2
            if number == life.last and not life.after:
                raise Killed
            try:
                return await real(*given, **named)
            finally:
                life.watch()
                if number == life.last:
                    raise Killed

        return call

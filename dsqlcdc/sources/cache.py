"""A byte-bounded collection of kept things, oldest out first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PageCache(Generic[T]):
    """Over all shards: what is kept, up to `limit` bytes. What is put out is told to whoever kept it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._kept: OrderedDict[int, tuple[T, int, Callable[[T], None]]] = OrderedDict()

    def keep(self, thing: T, size: int, forget: Callable[[T], None]) -> None:
        self._kept[id(thing)] = (thing, size, forget)
        self.bytes += size
        while self.bytes > self.limit:
            _, (oldest, old_size, told) = self._kept.popitem(last=False)
            self.bytes -= old_size
            told(oldest)

    def drop(self, thing: T) -> None:
        """Forget a thing that its keeper has forgotten already."""
        entry = self._kept.pop(id(thing), None)
        if entry is not None:
            self.bytes -= entry[1]

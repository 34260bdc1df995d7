"""Events that a receiver names as failed without a status, again and again: at last each is sent alone, to get a status of its own."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

NAMED_FOR, NAMED_TIMES = 600.0, 5
"""Seconds, and times, that an event may be named before it goes alone: an outage behind the receiver is no word about the event."""
_REMEMBERED = 65_536


class Named:
    """Since when and how often changes have been named without a status, by their ids."""

    def __init__(self) -> None:
        self._named: OrderedDict[bytes, tuple[float, int]] = OrderedDict()

    def again(self, id: bytes) -> None:
        """It was named once more."""
        since, times = self._named.get(id, (asyncio.get_running_loop().time(), 0))
        self._named[id] = since, times + 1
        if len(self._named) > _REMEMBERED:
            self._named.popitem(last=False)

    def over(self, id: bytes) -> None:
        """It is settled, or has a status."""
        if self._named:
            self._named.pop(id, None)

    def goes_alone(self, id: bytes) -> bool:
        """Is it to be sent as the single event that it is?"""
        since, times = self._named.get(id, (0.0, 0)) if self._named else (0.0, 0)
        return times >= NAMED_TIMES and asyncio.get_running_loop().time() - since >= NAMED_FOR

"""What every step of the stream manager has at hand: what is wanted, what was seen, the clients, and how to wait and to tell."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from dsqlcdc.streams.clients import Clients
from dsqlcdc.streams.desired import Desired
from dsqlcdc.streams.observed import Observed

T = TypeVar("T")
_TELL = 10.0
"""Seconds between two words about something that goes on unchanged."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """`say` hears each step; `clock`: seconds since the epoch. `poll`: seconds before the second look at something that takes time, which
    grow to `poll_most`. `role_wait`: seconds for which a role that is refused is offered again."""

    desired: Desired
    observed: Observed
    clients: Clients
    say: Callable[[str], None]
    clock: Callable[[], float]
    poll: float = 0.2
    poll_most: float = 5.0
    role_wait: float = 120.0

    async def until(self, look: Callable[[], Awaitable[T]], done: Callable[[T], bool], words: Callable[[T], str]) -> T:
        """Look until it is done, with growing pauses; `words` say how it stands, at each change and every ten seconds."""
        loop, pause, said, told = asyncio.get_running_loop(), self.poll, "", 0.0
        since = loop.time()
        while not done(seen := await look()):
            now, text = loop.time(), words(seen)
            if text != said or now >= told + _TELL:
                self.say(f"{text} ({now - since:.0f} s)")
                said, told = text, now
            await asyncio.sleep(pause * (0.8 + 0.4 * self.clients.random()))
            pause = min(pause * 1.5, self.poll_most)
        return seen

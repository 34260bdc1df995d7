"""The narrow port between the algorithm and the store: put, get, list, and what they may answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import Protocol

from dsqlcdc.contract import Misconfigured

PAGE = 1000
"""Keys that one answer of list holds at the most."""


class Put(Enum):
    """What a put came to. EXISTS (412): there is an object of this name, and it was left alone."""

    CREATED = "created"
    EXISTS = "exists"


class Missing(Exception):
    """There is no object of this name."""


class TooLarge(Misconfigured):
    """The store takes no object of this size."""


class Objects(Protocol):
    """A bucket. Every method raises Unavailable (no answer, or one that passes: the put may have taken place) or Misconfigured."""

    async def put(self, key: str, body: bytes, *, if_none_match: bool, sha256: bytes, content_type: str) -> Put:
        """Store the whole object or nothing. `sha256` is the body's digest, which the store verifies.

        With `if_none_match` an object that exists is never replaced. Raises TooLarge besides. When cancelled, it may have taken place.
        """
        ...

    async def try_put(self, key: str) -> bool:
        """May objects be put? Asked by one that can only be refused: on the condition that it replaces what is not there. True where the
        store took it, since it does not know such conditions; then an empty object is left."""
        ...

    def get(self, key: str) -> AsyncGenerator[bytes, None]:
        """The object's bytes, in pieces of bounded size. Raises Missing at the first step if there is none. Close it when leaving early."""
        ...

    async def list(self, prefix: str, start_after: str) -> Sequence[str]:
        """The first keys, PAGE at the most, that begin with `prefix` and sort after `start_after`."""
        ...


Store = Callable[[], AbstractAsyncContextManager[Objects]]
"""Opens a bucket: the one that digests go to."""

"""A sink around another one: whatever it does not do itself is the other's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from dsqlcdc.contract import Change, Digests, Known, Resume, Setback, Sink


class Around(Sink):
    """Hands every method of the contract on to `inner`; a test holds it to that. Subclasses change what they are for."""

    def __init__(self, inner: Sink) -> None:
        self.inner = inner
        self.needs_key, self.needs_order, self.order = inner.needs_key, inner.needs_order, inner.order  # type: ignore[misc]
        self.lanes, self.batching = inner.lanes, inner.batching

    async def __aenter__(self) -> Self:
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.inner.__aexit__(kind, error, trace)

    async def resume(self, resume: Resume) -> Iterable[Known]:
        return await self.inner.resume(resume)

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        return await self.inner.write(changes)

    async def probe(self) -> bool:
        return await self.inner.probe()

    async def replay(self, changes: Sequence[Change]) -> Sequence[Setback]:
        return await self.inner.replay(changes)

    def word(self) -> bytes:
        return self.inner.word()

    def circuit(self) -> str:
        return self.inner.circuit()

    def digests(self) -> Digests | None:
        return self.inner.digests()

    def account(self, word: bytes) -> bytes:
        return self.inner.account(word)

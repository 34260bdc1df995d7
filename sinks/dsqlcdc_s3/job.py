"""Digests where no writer keeps a chain: batches written in Lambda are named by a seal, on a schedule, when nothing more becomes of them."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from dsqlcdc.contract import Context
from dsqlcdc_s3.apart import Manifest as Batch
from dsqlcdc_s3.chain import Chain, Owner
from dsqlcdc_s3.delivered import is_void
from dsqlcdc_s3.encode import void
from dsqlcdc_s3.manifest import FORMAT, Link, Manifest, Seal, digest
from dsqlcdc_s3.objects import PAGE, Objects, Put
from dsqlcdc_s3.opening import digests_in_aws, signer, unique_name
from dsqlcdc_s3.options import Options
from dsqlcdc_s3.paths import manifest_key
from dsqlcdc_s3.sealing import Sealer, same

_FINAL = 1200.0
"""Seconds after which no invocation works at its batch any more: they last 900 at the most."""
_DAY = 86_400.0
_LATE = 9 * 86_400.0
"""Seconds that a batch may come late and is still found without being asked for: Lambda tries a record for seven days, or gives it up. One day
is for the look itself, which is made once a day, another for its own delay."""
_NAME = re.compile(r"([^/]+)/(\d{64,})-\d+-\d{4,}\.json")
_VOID = void()
_decode = msgspec.json.Decoder(Batch).decode


async def seal_apart(
    objects: Objects, options: Options, context: Context, clock: Callable[[], float], *, every: bool = False, due: bool = False
) -> Sequence[str]:
    """Write the digests that are missing, and one for the batches of Lambda since the last: the keys of those written.

    A chain that the daemon writes is only finished: it seals itself. Two at a time do no harm: one of them seals. Looked at are the batches
    whose records come behind those of the last digest but one, and by the first digest of each day (UTC) those of the last nine days, so that
    one that came late is named; with `every` all there are. `due`: only when `digest.every` is over. Raises Unavailable and Misconfigured.
    """
    owner = Owner(context.pipeline, context.sink, f"s3://{options.bucket}/{options.prefix}", options.prefix)
    chain = Chain(objects, owner)
    given = options.digest
    prefix = options.prefix if given is None or given.prefix is None else given.prefix
    store = digests_in_aws(options, context) or (lambda: same(objects))
    sealer = Sealer(objects, chain, owner, store, prefix, signer(options, context), options.parallel)
    n = await chain.last(0)
    body = None if n is None else await chain.fetch(n)
    last = None if n is None or body is None else chain.decode(n, body)
    sealer.begin(last)
    written = await sealer.finish()
    if last is not None and body is not None and (last.seal is None or last.seal.by != "job"):
        return written
    age = clock() - datetime.fromisoformat(last.created_at).timestamp() if last is not None else 0.0
    if due and last is not None and given is not None and age < given.every:
        return written
    beside, gone, marks = await _Look(objects, chain, owner, clock).batches(last, every=every)
    replays, empty = await sealer.replays()
    seal = Seal("job", False, (), (), {}, sorted([*beside, *replays], key=lambda link: link.key), marks)
    manifest = Manifest(
        format=FORMAT,
        n=1 + (last.n if last is not None else 0),
        epoch=1 + (last.epoch if last is not None else 0),
        writer=unique_name(),
        pipeline=context.pipeline,
        sink=context.sink,
        created_at=datetime.fromtimestamp(clock(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        prev=None if last is None or body is None else Link(manifest_key(options.prefix, last.n), digest(body)),
        newest_arrived=last.newest_arrived if last is not None else 0.0,
        parts=(),
        reads=(),
        voided=sorted([*gone, *empty]),
        sealed=sealer.sealed,
        seal=seal,
    )
    whole = manifest.encode()
    if await chain.put(manifest.n, whole) is Put.EXISTS and await chain.fetch(manifest.n) != whole:
        return written  # somebody else has just sealed
    sealer.passed(manifest, Link(manifest_key(options.prefix, manifest.n), digest(whole)))
    return [*written, *await sealer.finish()]


def _created(manifest: Manifest | Batch) -> float:
    return datetime.fromisoformat(manifest.created_at).timestamp()


def _behind(mark: str, name: str) -> bool:
    """Does the sequence number `name` come behind `mark`? They are decimal numbers of any length; "" is before all of them."""
    return (len(mark), mark) < (len(name), name)


class _Look:
    """Finds the batches that no seal has named, and says of each of their parts whether it is in, for ever."""

    def __init__(self, objects: Objects, chain: Chain, owner: Owner, clock: Callable[[], float]) -> None:
        self._objects, self._chain, self._owner, self._clock = objects, chain, owner, clock
        self._folder = f"{owner.prefix}manifests/apart/"

    async def batches(self, last: Manifest | None, *, every: bool) -> tuple[list[Link], list[str], dict[str, str]]:
        """Their manifests, the parts that are void, and by shard the last record of the last batch that is named."""
        marks = dict(last.seal.marks) if last is not None and last.seal is not None else {}
        since, named = await self._since(last, self._horizon(last, every=every))
        links: list[Link] = []
        empty: list[str] = []
        async for shard in self._shards():
            async for key, name in self._keys(shard, since.get(shard, "")):
                if key not in named:
                    body = b"".join([chunk async for chunk in self._objects.get(key)])
                    batch = _decode(body)
                    if self._clock() - _created(batch) < _FINAL:
                        if _behind(marks.get(shard, ""), name):
                            break  # the mark does not pass what may still be at work
                        continue
                    empty += [part.key for part in batch.parts if await self._decide(part.key)]
                    links.append(Link(key, digest(body)))
                if _behind(marks.get(shard, ""), name):
                    marks[shard] = name
        return links, empty, marks

    def _horizon(self, last: Manifest | None, *, every: bool) -> float:
        """From which time on batches are looked at: all of them, those of nine days (once a day), or those since the last seal but one."""
        now = self._clock()
        if every or last is None:
            return 0.0
        return now - _LATE if _created(last) // _DAY != now // _DAY else math.inf

    async def _since(self, last: Manifest | None, horizon: float) -> tuple[Mapping[str, str], set[str]]:
        """The marks of the newest seal but the last that was made before `horizon`, and what those after it name: what is behind these marks is
        named by none of the others."""
        named: set[str] = set()
        seal, newest = last, True
        while seal is not None and seal.seal is not None:
            if not newest and _created(seal) <= horizon:
                return seal.seal.marks, named
            named.update(link.key for link in seal.seal.beside)
            seal, newest = await self._chain.read(seal.sealed) if seal.sealed else None, False
        return {}, named

    async def _shards(self) -> AsyncGenerator[str, None]:
        """The folders of all shards, one request each."""
        after = self._folder
        while keys := await self._objects.list(self._folder, after):
            shard = keys[0].removeprefix(self._folder).partition("/")[0]
            yield shard
            after = f"{self._folder}{shard}/~"  # behind every name in there: those begin with digits

    async def _keys(self, shard: str, after: str) -> AsyncGenerator[tuple[str, str], None]:
        """The manifests of a shard whose last record is behind `after`, each with that."""
        start = f"{self._folder}{shard}/"
        at = f"{start}{after}~" if after else start
        while True:
            keys = await self._objects.list(start, at)
            for key in keys:
                name = _NAME.fullmatch(key.removeprefix(self._folder))
                if name:
                    yield key, name[2]
            if len(keys) < PAGE:
                return
            at = keys[-1]

    async def _decide(self, key: str) -> bool:
        """Is the part void? It is from now on, where nobody has put it."""
        digest = hashlib.sha256(_VOID).digest()
        put = await self._objects.put(key, _VOID, if_none_match=True, sha256=digest, content_type="application/gzip")
        return put is Put.CREATED or await is_void(self._objects, key)

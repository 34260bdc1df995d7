"""A lake behind HTTP, as S3 gives it to an auditor: lists of versions and objects, from files; it may fall silent."""

from __future__ import annotations

import asyncio
import bisect
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from urllib.parse import unquote
from xml.sax.saxutils import escape

from aiohttp import web

_PAGE = 1000


class Served:
    """One bucket of files. After `silent_after` objects of data were read, the next are not answered."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._keys = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
        self._tags: dict[tuple[int, int], str] = {}
        self.silent_after = 10**9
        self.read: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        key = unquote(request.match_info["path"]).partition("/")[2]
        if not key:
            return web.Response(text=self._versions(request.query), content_type="application/xml")
        path = self._root / key
        if not path.is_file():
            error = "<?xml version='1.0'?><Error><Code>NoSuchKey</Code><Message>no</Message></Error>"
            return web.Response(status=404, text=error, content_type="application/xml")
        if "/data/" in key:
            if len(self.read) >= self.silent_after:
                await asyncio.Event().wait()
            self.read.append(key)
        body = await asyncio.to_thread(path.read_bytes)
        return web.Response(body=body, headers={"ETag": self._tag(path), "Last-Modified": formatdate(path.stat().st_mtime, usegmt=True)})

    def _tag(self, path: Path) -> str:
        stat = path.stat()
        inode = (stat.st_ino, stat.st_mtime_ns)  # objects that are equal may be one file
        if inode not in self._tags:
            self._tags[inode] = hashlib.md5(path.read_bytes()).hexdigest()
        return f'"{self._tags[inode]}"'

    def _versions(self, asked: Mapping[str, str]) -> str:
        prefix, after = asked.get("prefix", ""), asked.get("key-marker", "")
        start = bisect.bisect_right(self._keys, after) if after > prefix else bisect.bisect_left(self._keys, prefix)
        some = self._keys[start : start + _PAGE]
        found = [key for key in some if key.startswith(prefix) and (self._root / key).is_file()]
        more = len(some) == _PAGE and some[-1].startswith(prefix)
        marker = f"<NextKeyMarker>{escape(some[-1])}</NextKeyMarker><NextVersionIdMarker>null</NextVersionIdMarker>" if more else ""
        return (
            '<?xml version="1.0"?><ListVersionsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{marker}{''.join(map(self._version, found))}</ListVersionsResult>"
        )

    def _version(self, key: str) -> str:
        path = self._root / key
        stat = path.stat()
        written = formatdate(stat.st_mtime, usegmt=True)
        return (
            f"<Version><Key>{escape(key)}</Key><VersionId>null</VersionId><IsLatest>true</IsLatest><LastModified>{written}</LastModified>"
            f"<ETag>{escape(self._tag(path))}</ETag><Size>{stat.st_size}</Size></Version>"
        )


@asynccontextmanager
async def serving(root: Path) -> AsyncIterator[tuple[Served, str]]:
    """The bucket, and the endpoint that it is behind."""
    served = Served(root)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", served.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        host, port = runner.addresses[0][:2]
        yield served, f"http://{host}:{port}"
    finally:
        await runner.cleanup()

"""An S3 that takes objects as fast as it is given them, and counts the lines in those it keeps for that."""

from __future__ import annotations

import gzip
from xml.sax.saxutils import escape

from aiohttp import web

_EMPTY = '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>false</IsTruncated>{}</ListBucketResult>'


class Bucket:
    """PUT (with If-None-Match), GET, HEAD and ListObjectsV2 of one bucket; `GET /-/lines` says how many lines its gzipped data holds."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.lines = 0
        self._counted: set[str] = set()

    async def handle(self, request: web.Request) -> web.Response:
        key = request.match_info["path"].partition("/")[2]
        if request.path == "/-/lines":
            return web.Response(text=str(self._count()))
        if request.method == "PUT":
            body = await request.read()
            if request.headers.get("If-None-Match") and key in self.objects:
                return web.Response(status=412)
            self.objects[key] = body
            return web.Response(headers={"ETag": '"e"'})
        if not key:
            asked = request.query
            found = sorted(k for k in self.objects if k.startswith(asked.get("prefix", "")) and k > asked.get("start-after", ""))
            entries = "".join(f"<Contents><Key>{escape(k)}</Key></Contents>" for k in found[:1000])
            return web.Response(text=_EMPTY.format(entries), content_type="application/xml")
        held = self.objects.get(key)
        return web.Response(status=404) if held is None else web.Response(body=held, headers={"ETag": '"e"'})

    def _count(self) -> int:
        for key in self.objects.keys() - self._counted:
            self._counted.add(key)
            if key.endswith(".gz"):
                self.lines += len(gzip.decompress(self.objects[key]).splitlines())  # the last of Bento's has no line feed
        return self.lines

"""A receiver of webhooks in a process of its own: every delivery verified and kept, whatever it answers. Run as a program it serves."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="
_LARGEST = 64 * 1024 * 1024


class Receiver:
    """What a receiver in another process has kept: one line a delivery, with the body as it came."""

    def __init__(self, url: str, path: Path) -> None:
        self.url, self._path = url, path

    def bodies(self) -> dict[str, list[str]]:
        """Every body that came, by the id it came with."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for line in self._path.read_text().splitlines():
            kept = json.loads(line)
            found[kept["id"]].append(kept["body"])
        return found


def lines(bodies: dict[str, list[str]]) -> list[dict[str, Any]]:
    """The events, each once, in the form of the lake's lines."""
    rows = [json.loads(several[0])["data"] for several in bodies.values()]
    return [{**row, "version": int(row["version"])} for row in rows]


@contextmanager
def receiving(directory: Path) -> Iterator[Receiver]:
    """A receiver on loopback, until left."""
    path = directory / "deliveries"
    with subprocess.Popen([sys.executable, __file__, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Receiver(process.stdout.readline().strip(), path)
        finally:
            process.terminate()


async def serve(path: Path) -> None:
    """One delivery in sixty is kept and refused for the moment, one in sixty kept and never answered."""
    chance, verifier = random.Random(9), Webhook(SECRET)

    async def take(request: web.Request) -> web.Response:
        body = await request.read()
        verifier.verify(body, dict(request.headers))
        kept.write(json.dumps({"id": request.headers["webhook-id"], "body": body.decode()}) + "\n")
        kept.flush()
        fate = chance.randrange(60)
        if fate == 0 and request.transport is not None:
            request.transport.abort()
        return web.Response(status=503 if fate == 1 else 204)

    app = web.Application(client_max_size=_LARGEST)
    app.router.add_post("/", take)
    runner = web.AppRunner(app, access_log=None)
    with path.open("a") as kept:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}/", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))

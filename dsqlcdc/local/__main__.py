"""`python -m dsqlcdc.local --port 4580`: the embedded AWS alone."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal

from dsqlcdc.local import serve


async def _main(port: int, seed: int) -> None:
    serving = asyncio.create_task(serve(port, seed=seed))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The embedded AWS on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=4580, help="0 takes a free one")
    parser.add_argument("--seed", type=int, default=0, help="decides everything that is drawn")
    given = parser.parse_args()
    asyncio.run(_main(given.port, given.seed))

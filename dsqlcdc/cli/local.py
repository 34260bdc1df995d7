"""`dsqlcdc local`: the embedded AWS alone, until it is interrupted."""

from __future__ import annotations

from typing import Annotated

import typer

from dsqlcdc.cli.output import emit, emit_json, flush, say
from dsqlcdc.cli.shape import AsJson, application

app = application()


@app.command()
def local(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port on 127.0.0.1; 0 takes a free one.")] = 4580,
    seed: Annotated[int, typer.Option(help="Decides everything that is drawn.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Serve Kinesis, the DSQL control plane, S3 and more on loopback, for development.

    Prints the lines that point AWS clients at it. Nothing is kept when it ends.
    """
    import asyncio
    import signal

    from dsqlcdc.errors import Misconfigured
    from dsqlcdc.local import serve

    def ready(line: str) -> None:
        endpoint = line.removeprefix("ready ")
        variables = environment(endpoint)
        if as_json:
            emit_json({"endpoint": endpoint, "environment": variables})
        else:
            emit("\n".join(f"export {name}={value}" for name, value in variables.items()))
            flush()
            say(f"The embedded AWS answers at {endpoint}. Ctrl-C ends it.")

    async def serving() -> None:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        try:
            await serve(port, seed=seed, ready=ready)
        except asyncio.CancelledError:
            return  # told to end: that is how it ends
        except OSError as error:
            why = error.strerror or str(error)
            raise Misconfigured("cannot listen", where=f"127.0.0.1:{port}", why=why, run="dsqlcdc local --port 0", code="E131") from error

    asyncio.run(serving())


def environment(endpoint: str) -> dict[str, str]:
    """What AWS clients need to be told. The credentials are not checked, but clients want some."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
    }

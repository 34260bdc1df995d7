"""`dead replay --from-lambda-destination`: what a Lambda trigger gave up, delivered as the function would have."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dsqlcdc.cli.output import emit, emit_json, printable, say
from dsqlcdc.cli.selection import asked
from dsqlcdc.config import Config, load_partial
from dsqlcdc.errors import ConfigError
from dsqlcdc.hosts.lambda_destination import destination

_STAYS = 4


def replay(path: Path, where: str, *, dry_run: bool, yes: bool, deadline: float, as_json: bool) -> int:
    """The command. Its exit code: 0, or 4 where something is still owed. Objects stay where they are: to S3 nothing goes twice."""
    try:
        config = load_partial(path.read_bytes(), str(path), path.parent)
    except OSError as error:
        what, run = "the config file cannot be read", f"dsqlcdc config lint {path}"
        raise ConfigError(what, where=str(path), why=error.strerror or str(error), run=run, code="E090") from error
    return asyncio.run(_replay(config, path, where, dry_run=dry_run, yes=yes, deadline=deadline, as_json=as_json))


async def _replay(config: Config, path: Path, where: str, *, dry_run: bool, yes: bool, deadline: float, as_json: bool) -> int:
    owed = 0
    async with destination(where, config) as place:
        keys = await place.keys()
        if not keys:
            say("The trigger gave up nothing.")
            return 0
        say(f"{len(keys)} object{'s' if len(keys) > 1 else ''} of what the trigger gave up.")
        again = f"dsqlcdc dead replay {path} --from-lambda-destination {where}"
        if not dry_run and not asked(f"Deliver them to {', '.join(config.sinks)}?", again, yes=yes):
            say("Nothing was changed.")
            return 0
        for key in keys:
            given = await place.read(key)
            count = 0 if given.batch is None else len(given.batch.records)
            left = "" if dry_run else await place.deliver(given, deadline)
            owed += bool(left)
            outcome = "would be delivered" if dry_run else f"owed from {left} on" if left else "settled"
            if as_json:
                emit_json(
                    {"object": key, "condition": given.condition, "records": count, "outcome": outcome.split(" ")[0], "owed": left or None}
                )
            else:
                emit(printable(f"{key}  {given.condition or '-'}  {count} record{'s' if count != 1 else ''}  {outcome}"))
    say("A dry run: nothing was written." if dry_run else f"{len(keys) - owed} settled, {owed} owed.")
    return _STAYS if owed else 0

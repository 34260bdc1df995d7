"""The lock of a runner: one for each pipeline and sink, freed by the system when its process dies."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Self
from urllib.parse import quote

from dsqlcdc.core.ports import Name
from dsqlcdc.errors import Held, Misconfigured
from dsqlcdc.stores.durable import fault_of, make_directory

_LONGEST = 150  # characters of a file name that the names may take


class RunnerLock:
    """A held lock file beside a database. The file stays when it is let go: removing it would let two runners in."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    @classmethod
    def take(cls, database: Path, name: Name, now: float) -> Self:
        """Take the lock, without waiting. Raises Held, naming the holder; Misconfigured or Unavailable where the file cannot be made."""
        path = lock_path(database, name)
        try:
            make_directory(path.parent)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise fault_of(error, "The runner's lock cannot be taken", path) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(handle, 0)
            started = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}, since {started}\n".encode(), 0)
        except BlockingIOError:
            holder = os.pread(handle, 500, 0).decode(errors="replace").strip()
            os.close(handle)
            raise held(name, holder or "a process that has only just begun") from None
        except OSError as error:
            os.close(handle)
            raise fault_of(error, "The runner's lock cannot be taken", path) from error
        return cls(handle)

    def release(self) -> None:
        """Let go. Twice is no error."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            with contextlib.suppress(OSError):  # it frees the lock in any case
                os.close(handle)


def held(name: Name, holder: str) -> Held:
    """The refusal of a second runner."""
    return Held("Another runner has this pipeline and sink", where=f"{name.pipeline}/{name.sink}", why=holder, run="dsqlcdc status CONFIG")


def not_held(name: Name) -> Misconfigured:
    """The refusal of a reset beside a runner."""
    why = "only who holds the runner's lock may do this"
    return Misconfigured(
        "A checkpoint cannot be reset", where=f"{name.pipeline}/{name.sink}", why=why, run="dsqlcdc checkpoint reset --help", code="E208"
    )


def lock_path(database: Path, name: Name) -> Path:
    """Where the lock of a pipeline and sink is: beside the database, whatever the stream."""
    words = [quote(word, safe="", errors="surrogatepass").replace(".", "%2E") for word in (name.pipeline, name.sink)]
    tail = ".".join(words)
    if len(tail) > _LONGEST:
        tail = hashlib.sha256(tail.encode()).hexdigest()
    real = database.resolve()  # one lock, by whatever link the database is reached
    return real.with_name(f"{real.name}.{tail}.lock")

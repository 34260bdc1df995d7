"""Directories and their entries made durable; what the system says of them translated."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from dsqlcdc.errors import Fault, Misconfigured, Unavailable

_PASSING = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EAGAIN,
        errno.EINTR,
        errno.EBUSY,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)


def make_directory(directory: Path) -> None:
    """Create a directory and its parents; their entries survive a power cut. Raises OSError."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fault_of(error: OSError, what: str, where: Path) -> Fault:
    """What passes by itself (a full disk, too many open files) is Unavailable, the rest (access denied) Misconfigured."""
    why = error.strerror or str(error)
    if error.errno in _PASSING:
        return Unavailable(what, where=str(where), why=why, code="E210")
    return Misconfigured(
        what, where=str(where), why=why, run=f"ls -ld {where.parent} {where}, and mend it or the path in CONFIG", code="E204"
    )

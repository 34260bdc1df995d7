"""Dead letters as files: one a record, complete and durable before its name exists, never overwritten."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import AsyncIterator, Callable, Generator
from os import PathLike
from pathlib import Path
from typing import Literal, TypeVar

from dsqlcdc import __version__
from dsqlcdc.core.ports import DeadLetter
from dsqlcdc.errors import Misconfigured, Unavailable
from dsqlcdc.stores import letters
from dsqlcdc.stores.durable import make_directory, sync_directory

T = TypeVar("T")

_CLOSED = ("replayed", "discarded")


class FileDeadLetters:
    """A DeadLetterStore in a directory, made by the first letter. A crash leaves at most a hidden `.…tmp` file, which nobody reads;
    amending and moving leave an empty `.lock`.

    `config_sha256` goes into every letter, to tell under which configuration it was written. Several processes may share a directory.
    """

    def __init__(self, directory: str | PathLike[str], config_sha256: str = "") -> None:
        self._directory = Path(directory)
        self._config_sha256 = config_sha256

    async def prepare(self) -> None:
        """Make the directory and see that it can be written: better found at the start than at the first bad record. Raises Misconfigured."""

        def make() -> None:
            make_directory(self._directory)
            if not os.access(self._directory, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "it cannot be written")

        try:
            await asyncio.to_thread(make)
        except OSError as error:
            why, run = error.strerror or str(error), f"ls -ld {self._directory}, and mend dead_letters.path"
            raise Misconfigured("Dead letters could not be stored", where=str(self._directory), why=why, run=run, code="E208") from error

    async def put(self, letter: DeadLetter) -> bool:
        """Durable on return; False where its name is taken, by the same record and code. Raises Unavailable (E211) whatever the system
        refuses: nothing is settled then. ValueError for a letter without sequence or code. When cancelled the letter may be stored."""
        path = self._directory / letters.name_of(letter)
        try:
            return await asyncio.to_thread(self._put, path, letter)
        except OSError as error:
            why = error.strerror or str(error)
            raise Unavailable("A dead letter could not be stored", where=str(path), why=why, code="E211") from error

    def _put(self, path: Path, letter: DeadLetter) -> bool:
        make_directory(path.parent)
        new = not path.exists()
        if new:
            body = letters.encode(letter, version=__version__, config_sha256=self._config_sha256)
            new = _link(path, body)
        sync_directory(path.parent)
        return new

    async def letters(self) -> AsyncIterator[tuple[str, DeadLetter]]:
        """Every letter with its name, oldest arrival day first. Letters that cannot be read do not hide the others: when all have been
        given, Misconfigured names them (E207 damaged, E202 of a newer format). Raises Unavailable (E211) when the directory cannot be read.
        """
        broken: list[tuple[str, ValueError]] = []
        for name in await self._asked(self._names):
            try:
                letter = await self.letter(name)
            except KeyError:
                continue  # discarded since
            except ValueError as error:
                broken.append((name, error))
                continue
            yield name, letter
        if broken:
            raise letters.unreadable(broken, str(self._directory))

    async def letter(self, name: str) -> DeadLetter:
        """One letter by its name. Raises KeyError where there is none, ValueError where it cannot be read, Unavailable."""
        path = self._directory / name
        if not name.endswith(".json.gz") or ".." in path.parts:
            raise KeyError(name)

        def read() -> bytes | None:
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

        data = await self._asked(read)
        if data is None:
            raise KeyError(name)
        return await asyncio.to_thread(letters.decode, data)

    async def tried(self, name: str, code: str, detail: str, at: float) -> None:
        """See LetterBox.tried. Raises ValueError where the letter cannot be read, Unavailable (E211)."""

        def rewrite() -> None:
            path = self._directory / name
            with _alone(self._directory):
                try:
                    body = letters.amended(path.read_bytes(), code, detail, at)
                except FileNotFoundError:
                    return
                _replace(path, body)

        await self._asked(rewrite)

    async def close_letter(
        self, name: str, folder: Literal["replayed", "discarded"], outcome: str, reason: str, at: float, *, keep: bool = False
    ) -> bool:
        """See LetterBox.close_letter. Raises ValueError where the letter cannot be read, Unavailable (E211)."""

        def move() -> bool:
            path, target = self._directory / name, self._directory / folder / name
            with _alone(self._directory):
                try:
                    letter = path.read_bytes()
                except FileNotFoundError:
                    return False
                body = letters.closed(letter, outcome, reason, at)
                make_directory(target.parent)
                if not _link(target, body):  # the same record's, dealt with before: only its attempts may be more by now
                    _replace(target, letters.merged(target.read_bytes(), letter, body))
                sync_directory(target.parent)
                if not keep:
                    path.unlink(missing_ok=True)
                    sync_directory(path.parent)
            return True

        return await self._asked(move)

    async def close(self) -> None:
        """Nothing is open between calls."""

    def _names(self) -> list[str]:
        def broken(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise error

        names: list[str] = []
        for directory, folders, files in os.walk(self._directory, onerror=broken):
            inside = Path(directory).relative_to(self._directory)
            if not inside.parts:
                folders[:] = [folder for folder in folders if folder not in _CLOSED]
            names += [(inside / file).as_posix() for file in files if file.endswith(".json.gz") and not file.startswith(".")]
        return sorted(names, key=lambda name: (_day(name), name))

    async def _asked(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            why = error.strerror or str(error)
            raise Unavailable("The dead letters cannot be read", where=str(self._directory), why=why, code="E211") from error


def _day(name: str) -> str:
    return next((part for part in name.split("/") if part.startswith("dt=")), "")


def _write(draft: Path, body: bytes) -> None:
    with draft.open("xb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _alone(directory: Path) -> Generator[None, None, None]:
    """Nobody else amends or moves letters of this directory meanwhile, in this process or another. The lock ends with its process."""
    try:
        handle = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        yield  # no letters: nothing to keep apart
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _replace(path: Path, body: bytes) -> None:
    draft = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        _write(draft, body)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync_directory(path.parent)


def _link(path: Path, body: bytes) -> bool:
    """Give a complete file its name, unless the name is taken."""
    draft = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        _write(draft, body)
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
    return True

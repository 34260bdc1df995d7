"""A real single-node OpenSearch on loopback: its jars from Maven, checked against recorded hashes, started, killed, started again."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent / "server"
START = 120.0
"""Seconds that a start may take on a busy machine; three on a quiet one."""


def missing() -> str:
    """What this machine lacks to run a node, "" where it can."""
    absent = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    return f"{' and '.join(absent)} not found: Java 17 and Maven (openjdk-17-jre-headless, maven) are needed" if absent else ""


def jars() -> Path:
    """The directory of the node's jars, fetched once a machine. Raises RuntimeError where Maven fails or a jar is not the recorded one."""
    pom = HERE / "pom.xml"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsqlcdc-live"
    directory = cache / hashlib.sha256(pom.read_bytes()).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.is_dir():
            fetched = Path(tempfile.mkdtemp(dir=cache))
            try:
                _fetch(pom, fetched)
                fetched.rename(directory)
            finally:
                shutil.rmtree(fetched, ignore_errors=True)
    return directory


def _fetch(pom: Path, into: Path) -> None:
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={into}"]
    done = subprocess.run(["mvn", "-B", "-q", "-C", "-f", str(pom), *goal], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Maven could not fetch the node's jars:\n{done.stdout}{done.stderr}")
    recorded = dict(reversed(line.split()) for line in (HERE / "jars.sha256").read_text().splitlines())
    found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in into.iterdir()}
    if found != recorded:
        wrong = sorted(name for name in found.keys() | recorded.keys() if found.get(name) != recorded.get(name))
        raise RuntimeError(f"jars that are not the recorded ones: {', '.join(wrong)}")


class Node:
    """A node and its data directory. The data outlive `stop` and `kill`; the port may change from one start to the next unless given.

    Use it as a context manager; it also ends by itself when this process dies.
    """

    def __init__(self, home: Path, settings: Mapping[str, str] | None = None, *, port: int = 0, heap: str = "512m") -> None:
        self.home, self.heap = home, heap
        self.settings = dict(settings or {})
        self.port = port
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **settings: str) -> Node:
        """Start and wait until it answers. `settings` are added for this start. The first start's port is kept by those after it.

        Raises RuntimeError with the end of the log where it ends or is not ready in time.
        """
        directory = jars()
        (self.home / "tmp").mkdir(parents=True, exist_ok=True)
        ready, log = self.home / "ready", self.home / "node.log"
        ready.unlink(missing_ok=True)
        given = {**self.settings, **{name.replace("__", "."): value for name, value in settings.items()}, "http.port": str(self.port)}
        command = [
            *("java", "-Xms128m", f"-Xmx{self.heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError"),
            *(f"-Djava.io.tmpdir={self.home / 'tmp'}", "-Dlog4j2.disable.jmx=true", "-Dlog4j.shutdownHookEnabled=false"),
            *(f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}", f"-Dparent.pid={os.getpid()}"),
            *("-cp", f"{directory}/*", str(HERE / "LiveNode.java"), str(self.home)),
            *(f"{name}={value}" for name, value in given.items()),
        ]
        with log.open("ab") as out:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        end = time.monotonic() + START
        while not ready.exists():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                lines = [line for line in log.read_text(errors="replace").splitlines() if not line.lstrip().startswith(("at ", "..."))]
                raise RuntimeError("the OpenSearch node did not start:\n" + "\n".join(lines[-30:]))
            time.sleep(0.05)
        address = ready.read_text()
        self.port = int(address.rpartition(":")[2])
        self.url = f"http://{address}"
        return self

    def stop(self) -> None:
        """SIGTERM, and wait until it is gone."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None
        (self.home / "ready").unlink(missing_ok=True)

    def __enter__(self) -> Node:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

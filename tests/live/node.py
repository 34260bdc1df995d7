"""A real single-node OpenSearch on loopback: its jars from Maven, checked against recorded hashes, started, killed, started again."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent / "server"
START = 120.0
"""Seconds that a start may take on a busy machine; three on a quiet one."""


class Release(NamedTuple):
    """What a version needs: the least Java, and log4j of the version that its pom names for log4j-api."""

    java: int
    log4j: str


RELEASES = {"2.19.6": Release(17, "2.25.4"), "3.6.0": Release(21, "2.25.3")}
VERSION = os.environ.get("OPENSEARCH_VERSION") or "2.19.6"
"""Of the node that is tested: one of RELEASES, whose jars' hashes are recorded."""


def java() -> str:
    """That of JAVA_HOME, or else what the path finds."""
    home = os.environ.get("JAVA_HOME")
    return str(Path(home, "bin", "java")) if home else "java"


def missing() -> str:
    """What this machine lacks to run a node, "" where it can."""
    if VERSION not in RELEASES:
        return f"OPENSEARCH_VERSION is {VERSION}, and the jars of {' and '.join(RELEASES)} only are recorded"
    needed = RELEASES[VERSION].java
    if absent := [tool for tool in (java(), "mvn") if shutil.which(tool) is None]:
        return f"{' and '.join(absent)} not found: Java {needed} and Maven (openjdk-{needed}-jre-headless, maven) are needed"
    said = subprocess.run([java(), "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', said)
    if found is None or int(found[1]) < needed:
        return f"OpenSearch {VERSION} needs Java {needed}, and {java()} is {said.splitlines()[:1]}: set JAVA_HOME"
    return ""


def jars() -> Path:
    """The directory of the node's jars, fetched once a machine. Raises RuntimeError where Maven fails or a jar is not the recorded one."""
    pom = HERE / "pom.xml"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsqlcdc-live"
    directory = cache / f"{VERSION}-{hashlib.sha256(pom.read_bytes()).hexdigest()[:16]}"
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
    versions = [f"-Dopensearch.version={VERSION}", f"-Dlog4j.version={RELEASES[VERSION].log4j}"]
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={into}", *versions]
    done = subprocess.run(["mvn", "-B", "-q", "-C", "-f", str(pom), *goal], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Maven could not fetch the node's jars:\n{done.stdout}{done.stderr}")
    recorded = dict(reversed(line.split()) for line in (HERE / f"jars-{VERSION}.sha256").read_text().splitlines())
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
            *(java(), "-Xms128m", f"-Xmx{self.heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError"),
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

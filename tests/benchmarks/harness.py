"""What the benchmarks share: servers and commands as processes of their own, CPU and memory as the system counts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
"""How often whole processes take turns."""
DSQLCDC = [sys.executable, "-P", "-m", "dsqlcdc"]
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
    # every process finds its modules compiled, as where pip has installed them, and whoever runs the benches wants no files in the tree
    "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / f"dsqlcdc-bench-{os.getuid()}"),
    "AWS_ACCESS_KEY_ID": "a",
    "AWS_SECRET_ACCESS_KEY": "b",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Run(NamedTuple):
    """`cpu`: user and system seconds of the whole process; `rss`: MiB at its peak."""

    out: str
    cpu: float
    code: int
    rss: float = 0.0


class Measure(NamedTuple):
    """One line of the table. `asked` is the aim, `held` what a change must not fall below; `least`: more is better."""

    name: str
    got: float
    asked: float
    held: float
    least: bool
    unit: str

    @property
    def words(self) -> tuple[str, str, str, str]:
        reached = self.got >= self.asked if self.least else self.got <= self.asked
        bound = "at least" if self.least else "at most"
        return self.name, f"{bound} {self.asked:g}{self.unit}", f"{self.got:.3g}{self.unit}", "" if reached else "falls short"


MEASURES: list[Measure] = []
"""What was measured, for the table at the end."""


def judge(name: str, got: float, asked: float, *, held: float, least: bool = True, unit: str = " ×") -> None:
    """Keep a measure for the table. What falls short of what is asked is said there; worse than `held` is a failure."""
    MEASURES.append(Measure(name, got, asked, held, least, unit))
    assert got >= held if least else got <= held, f"{name}: {got:.3g}{unit}, held so far: {held:g}{unit}"


@contextmanager
def kinesis(**options: Any) -> Iterator[str]:
    """The fast Kinesis of fake_kinesis.py; its endpoint."""
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    server = subprocess.Popen([sys.executable, str(HERE / "fake_kinesis.py"), *words], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().split()[1]
    finally:
        server.kill()
        server.communicate()


def run(command: Sequence[str], timeout: float = 300, env: Mapping[str, str] | None = None) -> Run:
    """A command to its end."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, text=True, env={**ENVIRONMENT, **(env or {})})
        code, usage = _wait(process, timeout)
        out.seek(0)
        err.seek(0)
        assert code in (0, 4), f"{' '.join(command)} ended with {code}: {err.read()[-2000:]}"
        return Run(out.read(), usage.ru_utime + usage.ru_stime, code, usage.ru_maxrss / 1024)


def cpu_of(pid: int) -> float:
    """User and system seconds of a process that is still running."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_of(pid: int) -> float:
    """The most MiB that a process has held so far."""
    found = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(found.split()[1]) / 1024


def _wait(process: subprocess.Popen[str], timeout: float) -> Any:
    import signal

    def late(*_: object) -> None:
        process.kill()

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(int(timeout))
    try:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode, usage
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def config(directory: Path, endpoint: str, sink: str = "{type: drop}", *, name: str = "bench", more: str = "") -> Path:
    """A config that reads the bench stream as fast as it can."""
    path = directory / "bench.yaml"
    path.write_text(
        f"""\
pipeline: {name}
aws: {{region: us-east-1, endpoint_url: "{endpoint}"}}
source: {{stream: bench, reads_per_second: 1000, bytes_per_second: 10GiB}}
tables: {{"public.order_items": {{key: [order_id, item_id]}}}}
sinks: {{out: {sink}}}
state: {{type: sqlite, path: state.db}}
dead_letters: {{type: files, path: dead}}
fragments: {{type: sqlite, path: fragments.db}}
{more}"""
    )
    return path


def summary(out: str) -> dict[str, Any]:
    """The last line of `run --once --json`."""
    found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return found


def table(title: str, rows: Sequence[Sequence[object]], heads: Sequence[str]) -> None:
    """Print a table of figures."""
    print(f"\n{title}")
    for text in lines(rows, heads):
        print(f"  {text}")


def lines(rows: Sequence[Sequence[object]], heads: Sequence[str]) -> list[str]:
    """A table, line by line."""
    cells = [[str(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(heads))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]

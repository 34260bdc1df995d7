"""A sandbox as a process of its own, which has the function from one folder and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROGRAM = """
import json, sys, time
started = time.perf_counter()
sys.path.insert(0, sys.argv[1])
from dsqlcdc.hosts import aws_lambda
print(json.dumps({"file": aws_lambda.__file__, "seconds": time.perf_counter() - started}), flush=True)

class Context:
    def __init__(self, left):
        self.until = time.monotonic() + left / 1000

    def get_remaining_time_in_millis(self):
        return int((self.until - time.monotonic()) * 1000)

for line in sys.stdin:
    given = json.loads(line)
    try:
        answer = {"answer": getattr(aws_lambda, given["call"])(given["event"], Context(given["left"]))}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
"""


class SandboxDied(Exception):
    """The process was killed, or the function raised."""


class ProcessSandbox:
    """`handle` and `sweep` as Function has them, in a process that sees only `folder` and the standard library."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        command = [sys.executable, "-I", "-S", "-c", PROGRAM, str(folder)]
        self.process = subprocess.Popen(command, env=dict(environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in, self._out = self.process.stdin, self.process.stdout
        self.started: dict[str, Any] = json.loads(self._out.readline())

    def handle(self, event: object, context: Any) -> object:
        return self._call("handler", event, context)

    def sweep(self, context: Any) -> object:
        return self._call("sweep", {}, context)

    def _call(self, call: str, event: object, context: Any) -> object:
        try:
            self._in.write(json.dumps({"call": call, "event": event, "left": context.get_remaining_time_in_millis()}) + "\n")
            self._in.flush()
            line = self._out.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": "killed"}
        if "error" in answer:
            raise SandboxDied(answer["error"])
        return answer["answer"]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._out.close()
        try:
            self._in.close()
        except BrokenPipeError:
            pass

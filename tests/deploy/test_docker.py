"""The image's steps do what they say, without a container engine; compose's services come up and deliver."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from dsqlcdc.config import lint

from ..docs.reading import ROOT

DOCKER = ROOT / "deploy" / "docker"
UNREACHABLE = re.compile(r"NewConnectionError|Temporary failure in name resolution|No matching distribution|ConnectTimeout|ProxyError")


def instructions() -> list[list[tuple[str, str]]]:
    """(instruction, arguments) of each stage of the Dockerfile."""
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    stages: list[list[tuple[str, str]]] = []
    for line in filter(str.strip, text.splitlines()):
        word, _, arguments = line.strip().partition(" ")
        if word == "FROM":
            stages.append([])
        stages[-1].append((word, arguments))
    return stages


def compose() -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    return made


def test_the_image_runs_as_nobody_in_particular_and_is_stopped_with_time_to_drain() -> None:
    _, last = instructions()
    given = dict(last)
    assert given["USER"] == "10001:10001"
    assert given["STOPSIGNAL"] == "SIGTERM"
    assert "/healthz" in given["HEALTHCHECK"]
    assert json.loads(given["ENTRYPOINT"]) == ["dsqlcdc"]
    assert json.loads(given["CMD"])[0] == "run"
    assert [word for word, _ in last].index("USER") > max(n for n, (word, _) in enumerate(last) if word in ("RUN", "COPY"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_build_stages_steps_make_a_dsqlcdc_that_runs_elsewhere(tmp_path: Path) -> None:
    build, _ = instructions()
    source, target = tmp_path / "src", tmp_path / "opt"
    source.mkdir()
    for arguments in (arguments for word, arguments in build if word == "COPY"):
        *names, _ = arguments.split()
        for name in names:
            path = ROOT / name
            if path.is_dir():
                shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, source / name)
    for step in (arguments for word, arguments in build if word == "RUN"):
        command = (
            step.replace("/opt/dsqlcdc", str(target)).replace("python -m venv", f"{sys.executable} -m venv").replace("--no-cache-dir", "")
        )
        done = subprocess.run(
            ["sh", "-c", command], cwd=source, env={**os.environ, "EXTRAS": ""}, capture_output=True, text=True, check=False
        )
        if done.returncode and UNREACHABLE.search(done.stderr):
            pytest.skip("NOT RUN: no package index can be reached from here, so the image's install steps were not tried")
        assert done.returncode == 0, done.stderr
    shutil.rmtree(source)
    said = subprocess.run([target / "bin" / "dsqlcdc", "--help"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "run" in said
    spec = "import importlib.util; print(importlib.util.find_spec('dsqlcdc_s3').origin)"
    where = subprocess.run([target / "bin" / "python", "-P", "-c", spec], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert where.startswith(str(target))


def test_composes_config_has_no_mistake() -> None:
    assert lint(DOCKER / "local.yaml", {"CLUSTER": "a" * 26}) == []


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(30)


def until(found: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, seconds: float = 150.0) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, log.read_text()
        try:
            process.wait(0.1)  # what it does otherwise sets no event here
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(log.read_text())


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_composes_services_come_up_and_deliver_what_is_committed(tmp_path: Path) -> None:
    """The very commands of compose.yaml, in processes in place of containers."""
    made = compose()
    services, names = made["services"], made["x-environment"]
    aws_port, http_port = str(free_port()), str(free_port())
    for name in ("local.yaml", "local_cluster.py"):
        text = (DOCKER / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("0.0.0.0:8080", f"127.0.0.1:{http_port}"), encoding="utf-8")
    bin_ = str(Path(sys.executable).parent)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    environment |= {key: value.replace("4580", aws_port) for key, value in names.items()}
    environment["PATH"] = f"{bin_}:{environment['PATH']}"
    assert services["run"]["network_mode"] == "service:aws"
    probe = services["aws"]["healthcheck"]["test"][-1].replace("4580", aws_port)
    script = services["run"]["command"][0].replace("$$", "$").replace("/etc/dsqlcdc/", f"{tmp_path}/")
    aws_log, log = tmp_path / "aws.log", tmp_path / "run.log"
    with running([f"{bin_}/dsqlcdc", *services["aws"]["command"], "--port", aws_port], environment, aws_log) as aws:
        until(lambda: subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False).returncode == 0, aws, aws_log)
        with running([*services["run"]["entrypoint"], script], environment, log) as daemon:
            until(lambda: answers(f"http://127.0.0.1:{http_port}/healthz"), daemon, log)
            commit = [sys.executable, str(tmp_path / "local_cluster.py"), "commit"]
            subprocess.run(commit, env=environment, check=True, capture_output=True)

            def delivered() -> bool:
                with urllib.request.urlopen(f"http://127.0.0.1:{http_port}/status", timeout=5) as answer:
                    (status,) = json.load(answer)["pipelines"]
                return bool(status["read"] and not status["open"] and status["settled"].get("delivered"))

            until(delivered, daemon, log)
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(30) == 0, log.read_text()

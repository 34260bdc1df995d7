"""What the Lambda zip leaves out, the handler never imports."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys
left_out = set(sys.argv[1].split(","))

class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in left_out:
            raise ImportError(f"{name} is not in the zip")

sys.meta_path.insert(0, Refuses())
import dsqlcdc.hosts.aws_lambda, dsqlcdc_s3, dsqlcdc_webhook, dsqlcdc.columns, aiobotocore.session
print(sorted(name for name in ("boto3", "moto", "dsqlcdc.cli", "dsqlcdc.local") if name in sys.modules))
"""


def left_out() -> tuple[str, ...]:
    spec = importlib.util.spec_from_file_location("build", ROOT / "deploy" / "lambda" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    names: tuple[str, ...] = build.UNUSED
    return names


def test_the_handler_needs_nothing_that_the_zip_leaves_out() -> None:
    command = [sys.executable, "-P", "-c", PROGRAM, ",".join(left_out())]
    assert subprocess.check_output(command, text=True).strip() == "[]"


def test_what_is_needed_and_left_out_is_found() -> None:
    """Control."""
    command = [sys.executable, "-P", "-c", PROGRAM, "aiohttp"]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0

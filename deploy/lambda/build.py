"""Build the Lambda zip: dsqlcdc and its libraries by pip into a folder, without what a function never uses, zipped the same each time.

    python deploy/lambda/build.py --out dist/lambda.zip --add orders.yaml

--add puts files beside the packages (the config, row models). --source is what pip installs: this tree, or a wheel. --platform and --python
say for which system, where it is not this one: `--platform manylinux2014_x86_64 --python 3.13`.
"""

from __future__ import annotations

import argparse
import compileall
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVICES = ("dsql", "dynamodb", "iam", "kinesis", "kms", "s3", "ssm", "sso", "sso-oidc", "sts", "signin")
"""botocore's API models that are kept: what a function calls (the custom resource for CDC streams too), and what credentials come from."""
UNUSED = ("bin", "pygments", "rich", "typer", "markdown_it", "mdurl", "shellingham", "prometheus_client", "wrapt-stubs")
"""What only the commands use."""
LIMIT = 60 * 1024 * 1024
"""Bytes unzipped; Lambda's own limit is 250 MB."""
EPOCH = (1980, 1, 1, 0, 0, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the Lambda zip.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / "lambda.zip")
    parser.add_argument("--source", type=Path, default=ROOT)
    parser.add_argument("--add", type=Path, action="append", default=[])
    parser.add_argument("--platform")
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dsqlcdc-lambda-") as work:
        folder = Path(work) / "package"
        install(given.source, folder, Path(work), given.platform, given.python)
        prune(folder)
        for path in given.add:
            shutil.copy(path, folder / path.name)
        if given.python == f"{sys.version_info.major}.{sys.version_info.minor}":
            compile_all(folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if size > LIMIT:
            raise SystemExit(f"{size / 1e6:.1f} MB unzipped is more than {LIMIT / 1e6:.0f}")
        pack(folder, given.out)
    print(f"{given.out}: {given.out.stat().st_size / 1e6:.1f} MB, {size / 1e6:.1f} MB unzipped")


def install(source: Path, folder: Path, work: Path, platform: str | None, python: str) -> None:
    """Install the source and its libraries, at the pinned versions."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheel = source
    if source.is_dir():
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(work), str(source)], check=True)
        (wheel,) = work.glob("*.whl")
    target = ["--only-binary=:all:", "--python-version", python, "--platform", platform] if platform else []
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, "install", "--no-compile", "--target", str(folder), *target, *constraints, str(wheel)], check=True)


def prune(folder: Path) -> None:
    """Remove what no function uses. The metadata stay: sinks are found by their entry points."""
    for name in UNUSED:
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in (folder / "botocore" / "data").iterdir():
        if path.is_dir() and path.name not in SERVICES:
            shutil.rmtree(path)
    for path in [*folder.rglob("*.pyi"), *folder.rglob("*.pyx"), *folder.rglob("*.c")]:
        path.unlink()


def compile_all(folder: Path) -> None:
    """Bytecode that is taken as it is: a function's folder is read-only, and the times in it are the unpacker's."""
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(folder, quiet=2, stripdir=str(folder), prependdir="/var/task", invalidation_mode=unchecked, workers=1)


def pack(folder: Path, out: Path) -> None:
    """The same files give the same zip."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), EPOCH)
                info.external_attr = (0o755 if os.access(path, os.X_OK) else 0o644) << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, path.read_bytes())


if __name__ == "__main__":
    main()

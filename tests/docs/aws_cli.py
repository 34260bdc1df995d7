"""`aws` for tests: runs what the documents say through botocore's models against AWS_ENDPOINT_URL, in place of the AWS CLI.

Flags, shorthand (`A=b,C=d`), JSON and booleans become parameters as the CLI makes them: a flag that the API does not have ends it.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import botocore.session
import jmespath  # type: ignore[import-untyped]
from botocore import xform_name
from botocore.config import Config


def main(words: list[str]) -> int:
    if words[:2] == ["s3", "sync"]:
        return _sync(words[2], Path(words[3]))
    service, command, *rest = words
    waiter = rest.pop(0) if command == "wait" else ""
    flags = _flags(rest)
    query, form = flags.pop("query", ""), flags.pop("output", "json")
    client = _client({"s3api": "s3"}.get(service, service))
    if waiter:
        name = next(name for name in client.waiter_names if name.replace("_", "-") == waiter)
        wait = client.get_waiter(name)
        operation = wait.config.operation
        wait.wait(**_parameters(client, operation, flags), WaiterConfig={"Delay": 0.2, "MaxAttempts": 200})
        return 0
    operation = next(name for name in client.meta.service_model.operation_names if xform_name(name, "-") == command)
    answer: Any = getattr(client, xform_name(operation))(**_parameters(client, operation, flags))
    if query:
        answer = jmespath.search(query, answer)
    answer = base64.b64encode(answer).decode() if isinstance(answer, bytes) else answer
    print(answer if form == "text" else json.dumps(answer, default=str))
    return 0


def _client(service: str) -> Any:
    return botocore.session.get_session().create_client(service, config=Config(s3={"addressing_style": "path"}))


def _flags(words: list[str]) -> dict[str, str]:
    flags: dict[str, str] = {}
    while words:
        name = words.pop(0)
        if not name.startswith("--"):
            sys.exit(f"not a flag: {name}")
        flags[name[2:]] = words.pop(0) if words and not words[0].startswith("--") else ""
    return flags


def _parameters(client: Any, operation: str, flags: dict[str, str]) -> dict[str, Any]:
    members = client.meta.service_model.operation_model(operation).input_shape.members
    by_flag = {xform_name(name, "-"): (name, shape) for name, shape in members.items()}
    given: dict[str, Any] = {}
    for flag, value in flags.items():
        positive = flag.removeprefix("no-")
        if flag not in by_flag and positive not in by_flag:
            sys.exit(f"{operation} has no --{flag}, only {sorted(by_flag)}")
        name, shape = by_flag.get(flag) or by_flag[positive]
        given[name] = _value(value, shape.type_name) if flag in by_flag else False
    return given


def _value(text: str, kind: str) -> Any:
    if kind == "boolean":
        return True
    if kind == "blob":
        return Path(text.removeprefix("fileb://")).read_bytes()
    if kind in ("integer", "long"):
        return int(text)
    if kind == "structure":
        return json.loads(text) if text.startswith("{") else dict(pair.split("=", 1) for pair in text.split(","))
    return text


def _sync(source: str, target: Path) -> int:
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    client = _client("s3")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", ()):
            path = target / entry["Key"].removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

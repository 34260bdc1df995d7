"""Where a function's config is: a file in its package, an object in S3, a parameter, or the YAML itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsqlcdc.aws import Aws, client, errors, translate
from dsqlcdc.config import Config, load_partial
from dsqlcdc.errors import ConfigError

log = logging.getLogger("dsqlcdc.lambda")

VARIABLE = "DSQLCDC_CONFIG"


async def load_config(environ: Mapping[str, str]) -> Config:
    """The config that DSQLCDC_CONFIG gives: a path (relative to the package), `s3://bucket/key`, `ssm:name` or a parameter's ARN, or YAML.

    Paths in it are relative to its file, or to the package. Raises ConfigError: E450 where nothing is given or nothing is there, else what
    `config lint --lambda` finds; Misconfigured or Unavailable as AWS answers.
    """
    given, package = environ.get(VARIABLE, "").strip(), Path(environ.get("LAMBDA_TASK_ROOT") or ".")
    if not given:
        raise _missing("is not set", "a path in the package, s3://bucket/key, ssm:name, or the YAML itself is expected")
    if "\n" in given or given.startswith("{") or ": " in given:
        return load_partial(given.encode(), VARIABLE, package, environ)
    if given.startswith("s3://"):
        return load_partial(await _object(given), given, package, environ)
    if given.startswith("ssm:") or (given.startswith("arn:") and ":ssm:" in given):
        return load_partial(await _parameter(given.removeprefix("ssm:")), given, package, environ)
    path = package / given
    try:
        body = path.read_bytes()
    except OSError as error:
        raise _missing(f"names {given}", f"the package has no such file ({error.strerror})") from error
    return load_partial(body, given, path.parent, environ)


async def _object(where: str) -> bytes:
    bucket, _, key = where.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise _missing(f"names {where}", "s3://bucket/key is expected")
    async with client("s3", Aws()) as s3:
        try:
            answer = await s3.get_object(Bucket=bucket, Key=key)
            async with answer["Body"] as stream:
                body: bytes = await stream.read()
        except errors() as error:
            raise translate(error, doing="read the config", where=where) from error
    return body


async def _parameter(name: str) -> bytes:
    async with client("ssm", Aws()) as ssm:
        try:
            answer: dict[str, Any] = await ssm.get_parameter(Name=name, WithDecryption=True)
        except errors() as error:
            raise translate(error, doing="read the config", where=f"ssm:{name}") from error
    return str(answer["Parameter"]["Value"]).encode()


def _missing(what: str, why: str) -> ConfigError:
    return ConfigError(
        f"{VARIABLE} {what}",
        where="the function's environment",
        why=why,
        run="aws lambda update-function-configuration --function-name FUNCTION --environment …",
        code="E450",
    )

"""What `dsqlcdc init` was told, by flags or answers, and what is made of it: a draft that has no mistake."""

from __future__ import annotations

import base64
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsqlcdc.config.draft import SINKS, Draft, Host, OpenSearchAuth, StateType
from dsqlcdc.config.findings import UNSET, Finding
from dsqlcdc.config.read import lint_bytes
from dsqlcdc.errors import ConfigError

__all__ = ["Answers", "Known", "known"]

_FLAGS = {
    "pipeline": "--pipeline",
    "aws.region": "--region",
    "aws.endpoint_url": "--endpoint-url",
    "source.stream": "--stream",
    "source.start": "--start",
    "tables": "--table",
    "state.table": "--state-table",
    "state": "--state",
    "dead_letters": "--store-bucket",
    "fragments": "--store-bucket",
    "http": "--http",
    "stream": "--cluster",
    "sinks": "--sink",
}
_OPTIONS = {
    "s3": {"bucket": "--bucket", "prefix": "--prefix"},
    "webhook": {"url": "--webhook-url"},
    "opensearch": {"url": "--opensearch-url", "sign": "--opensearch-auth", "basic": "--opensearch-auth"},
}


@dataclass(frozen=True, slots=True)
class Known:
    """What AWS says there is: names of Kinesis streams, identifiers of clusters. Empty where it was not asked."""

    streams: Sequence[str] = ()
    clusters: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Answers:
    """The words as they were given; "" and None where nothing was said. `sinks`: TYPE or NAME=TYPE; `tables`: PATTERN=COLUMN,…"""

    stream: str = ""
    region: str = ""
    sinks: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    host: Host | None = None
    cluster: str = ""
    bucket: str = ""
    prefix: str = "cdc/"
    webhook_url: str = ""
    opensearch_url: str = ""
    opensearch_auth: OpenSearchAuth | None = None
    state: StateType | None = None
    state_table: str = "dsqlcdc"
    store_bucket: str = ""
    start: str = "trim_horizon"
    pipeline: str = ""
    listen: str = ""
    endpoint_url: str = ""

    def named_sinks(self) -> Mapping[str, str]:
        """Types by name. Raises ConfigError: an unknown type, a type or a name twice."""
        found: dict[str, str] = {}
        for word in self.sinks or ("s3",):
            name, _, kind = word.rpartition("=")
            if kind not in SINKS:
                raise _usage(f"there is no such sink here, {kind!r}", "--sink", _known_types(kind))
            if kind in found.values():
                raise _usage(f"two sinks of type {kind}", "--sink", "write the second one into the file, beside the first")
            if (name or SINKS[kind]) in found:
                raise _usage(f"two sinks are called {name or SINKS[kind]!r}", "--sink", "give one another name: NAME=TYPE")
            found[name or SINKS[kind]] = kind
        return found

    def named_tables(self) -> Mapping[str, Sequence[str]]:
        """Key columns by pattern. Raises ConfigError where a word is not PATTERN=COLUMN,…"""
        found: dict[str, Sequence[str]] = {}
        for word in self.tables:
            pattern, equals, columns = word.partition("=")
            names = tuple(column.strip() for column in columns.split(","))
            if not equals or not pattern.strip() or not all(names):
                raise _usage(f"not a table and its key, {word!r}", "--table", "write for example public.orders=order_id,item_id")
            found[pattern.strip()] = names
        return found

    def missing(self, found: Known) -> list[str]:
        """The flags of what nobody said and nothing stands for."""
        kinds = self.named_sinks().values()
        wanted = {
            "--stream": bool(self.stream or len(found.streams) == 1),
            "--bucket": bool("s3" not in kinds or self.bucket),
            "--webhook-url": bool("webhook" not in kinds or self.webhook_url),
            "--opensearch-url": bool("opensearch" not in kinds or self.opensearch_url),
            "--table": bool("opensearch" not in kinds or self.tables),
            "--store-bucket": bool(self.host in (None, "daemon") or self.store_bucket or self.bucket or "s3" in kinds),
        }
        return [flag for flag, said in wanted.items() if not said]

    def draft(self, found: Known, *, samples: bool = False) -> Draft:
        """The draft. Raises ConfigError (E094) where something is missing, unless `samples` may stand for it."""
        if not samples and (missing := self.missing(found)):
            why = f"say {', '.join(missing)}"
            if found.streams and not self.stream:
                why += f"; the streams there are: {', '.join(found.streams)}"
            raise ConfigError(
                "not all is known, and nobody is there to ask", why=f"{why}; or --yes for samples", run="dsqlcdc init --help", code="E094"
            )
        sampled: set[str] = set()

        def given(value: str, sample: str, *keys: str) -> str:
            if not value:
                sampled.update(keys)
            return value or sample

        sinks, host = self.named_sinks(), self.host or "daemon"
        names = {kind: name for name, kind in sinks.items()}
        if host == "lambda" and self.state is not None:
            raise _usage("a function keeps no state of ours", "--state", "the trigger keeps the position: leave --state out")
        stream = given(self.stream or (found.streams[0] if len(found.streams) == 1 else ""), "orders-cdc", "source.stream")
        cluster = self.cluster or (found.clusters[0] if len(found.clusters) == 1 else "")
        bucket = given(self.bucket, "my-lake", f"sinks.{names['s3']}.bucket") if "s3" in names else self.bucket
        store = self.store_bucket or ("" if host == "daemon" else given(bucket, "my-lake", "dead_letters.bucket", "fragments.bucket"))
        tables = self.named_tables()
        if not tables and "opensearch" in names:
            tables = {"public.*": ("id",)}
            sampled.add("tables")
        search = (
            given(self.opensearch_url, "https://search.example.com", f"sinks.{names['opensearch']}.url") if "opensearch" in names else ""
        )
        return Draft(
            pipeline=self.pipeline or _pipeline(stream),
            stream=stream,
            sinks=sinks,
            region=_region(self.region, stream),
            endpoint_url=self.endpoint_url or None,
            start=self.start,
            bucket=bucket,
            prefix=self.prefix,
            webhook_url=given(self.webhook_url, "https://example.com/hook", f"sinks.{names['webhook']}.url") if "webhook" in names else "",
            opensearch_url=search,
            opensearch_auth=self.opensearch_auth or ("none" if search.startswith("http://") else "sign"),
            tables=tables,
            host=host,
            state=self.state or ("dynamodb" if host == "container" else "sqlite"),
            state_table=self.state_table,
            store_bucket=store,
            cluster=cluster or None,
            listen=None if self.listen == "off" else self.listen or ("0.0.0.0:8080" if host == "container" else "127.0.0.1:8080"),
            secret="whsec_" + base64.b64encode(secrets.token_bytes(32)).decode() if "webhook" in names else "",
            samples=frozenset(sampled),
        )

    def check(self, draft: Draft, text: str, path: Path) -> list[str]:
        """The names of variables that the text needs and that are not set. Raises ConfigError with every other mistake, at its flag."""
        found = findings(text, path, whole=draft.host != "lambda")
        wrong = [finding for finding in found if finding.code != UNSET]
        if wrong:
            told = [ConfigError(f.what, where=flag(f.key, draft.sinks), why=f.why, run="dsqlcdc init --help", code=f.code) for f in wrong]
            raise told[0] if len(told) == 1 else ConfigError("nothing was written", run="dsqlcdc init --help", findings=told)
        return sorted({word for finding in found for word in re.findall(r"variable (\w+) is not set", finding.what)})


def findings(text: str, path: Path, *, whole: bool) -> list[Finding]:
    """What `config lint` will say of the file. Raises ConfigError for what is no text."""
    try:
        return lint_bytes(text.encode(), path.absolute(), whole=whole)
    except UnicodeEncodeError as error:
        raise _usage(
            "a word is no text", "dsqlcdc init", f"it cannot be written as UTF-8: {error.object[error.start : error.end]!r}"
        ) from error


def flag(key: str, sinks: Mapping[str, str]) -> str:
    """The flag that says what stands at a dotted key."""
    first, *rest = key.split(".")
    if first == "sinks" and len(rest) > 1:
        return _OPTIONS.get(sinks.get(rest[0], ""), {}).get(rest[1], "--sink")
    return _FLAGS.get(key) or _FLAGS.get(".".join(key.split(".")[:2])) or _FLAGS.get(first) or key


def known(answers: Answers) -> Known:
    """The Kinesis streams and DSQL clusters of the account and Region. Raises what AWS calls raise: Misconfigured, Unavailable."""
    import asyncio

    from dsqlcdc.aws import Aws
    from dsqlcdc.hosts.inventory import clusters, streams

    async def both() -> Known:
        aws = Aws(region=_region(answers.region, answers.stream), endpoint_url=answers.endpoint_url or None)
        return Known(await streams(aws), await clusters(aws))

    return asyncio.run(both())


def _region(given: str, stream: str) -> str:
    """As given; of a stream named by ARN the ARN's; else what the environment says, else us-east-1."""
    parts = stream.split(":")
    of_arn = parts[3] if parts[0] == "arn" and len(parts) > 3 else ""
    return given or of_arn or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def _pipeline(stream: str) -> str:
    """A pipeline's name made of a stream's: other characters become `-`."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", stream.rpartition("/")[2]).strip("-_")[:64]
    return name or "orders-cdc"


def _known_types(kind: str) -> str:
    from dsqlcdc.config.findings import nearest
    from dsqlcdc.plugins import sink_types

    if kind in sink_types():
        return f"{kind!r} is installed, but its options are not known here: write its block into the file"
    return f"choices: {', '.join(SINKS)}. {nearest(kind, list(SINKS))}".rstrip()


def _usage(what: str, where: str, why: str) -> ConfigError:
    return ConfigError(what, where=where, why=why, run="dsqlcdc init --help", code="E094")

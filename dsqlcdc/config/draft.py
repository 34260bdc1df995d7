"""A config file written for somebody: a few answers become commented lines."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import yaml

__all__ = ["HOSTS", "SINKS", "Draft", "Host", "compose", "next_commands"]

Host = Literal["daemon", "container", "lambda"]
HOSTS: Mapping[Host, str] = {
    "daemon": "a process beside a disk that outlives it",
    "container": "a process whose disk goes with it: state, dead letters and pieces are kept in AWS",
    "lambda": "a function on a Kinesis trigger",
}
OpenSearchAuth = Literal["sign", "basic", "none"]
StateType = Literal["sqlite", "dynamodb", "memory"]
SINKS: Mapping[str, str] = {"s3": "lake", "opensearch": "search", "webhook": "hook", "stdout": "out", "drop": "nothing"}
"""The types that a draft can hold, and what the sink is called where nobody says."""


@dataclass(frozen=True, slots=True)
class Draft:
    """The answers. `sinks`: types by name. `store_bucket`: of dead letters and pieces; "" keeps them on the disk, or in memory beside a state
    that is shared or forgotten. `secret`: what the webhook signs with until a variable says otherwise. `samples`: keys (dotted) whose value
    nobody gave."""

    pipeline: str
    stream: str
    sinks: Mapping[str, str]
    region: str | None = None
    endpoint_url: str | None = None
    start: str = "trim_horizon"
    bucket: str = ""
    prefix: str = "cdc/"
    webhook_url: str = ""
    opensearch_url: str = ""
    opensearch_auth: OpenSearchAuth = "sign"
    tables: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    host: Host = "daemon"
    state: StateType = "sqlite"
    state_table: str = "dsqlcdc"
    store_bucket: str = ""
    cluster: str | None = None
    listen: str | None = None
    secret: str = field(default="", repr=False)
    samples: frozenset[str] = frozenset()


def compose(draft: Draft, name: str) -> str:
    """The text of the file `name`. Whatever stands in the draft is a value there and nothing else."""
    writer = _Writer(draft.samples)
    _head(writer, draft, name)
    _source(writer, draft)
    _tables(writer, draft)
    _sinks(writer, draft)
    _stores(writer, draft)
    _rest(writer, draft)
    return writer.text()


def next_commands(draft: Draft, name: str) -> list[tuple[str, str]]:
    """What to run after the file is written, each with what it does."""
    file = shlex.quote(name)
    found = [(f"dsqlcdc config lint {file}", "every mistake, with line, column and a fix")]
    if draft.cluster is not None:
        found += [
            (f"dsqlcdc stream plan {file}", "what there is to make: Kinesis stream, role, CDC stream; changes nothing"),
            (f"dsqlcdc stream apply {file}", "makes it, and waits until the CDC stream is ACTIVE"),
        ]
    if draft.host == "lambda":
        return [
            *found,
            (f"dsqlcdc config lint --lambda {file}", "… and what cannot be kept in a function"),
            (f"make lambda-zip ARGS={shlex.quote(f'--add {file}')}", "dist/lambda.zip with this file in it"),
        ]
    return [
        *found,
        (f"dsqlcdc doctor {file}", "looks at all that a run depends on, and delivers nothing"),
        (f"dsqlcdc run {file} --once", "to the tip of every shard, deliver, commit, end"),
        (f"dsqlcdc run {file}", "the daemon"),
        (f"dsqlcdc status {file} --watch", "what flows, what lags, what is owed"),
    ]


class _Writer:
    """Lines of YAML with comments before them."""

    def __init__(self, samples: frozenset[str]) -> None:
        self._samples = samples
        self._lines: list[str] = []

    def comment(self, *texts: str, indent: int = 0) -> None:
        self._lines += [f"{' ' * indent}# {text}".rstrip() for text in texts]

    def gap(self) -> None:
        self._lines.append("")

    def block(self, key: str, indent: int = 0) -> None:
        self._lines.append(f"{' ' * indent}{_scalar(key)}:")

    def value(self, key: str, value: str, *, at: str = "", indent: int = 0) -> None:
        """`key: value`, as text. `at`: its dotted place, where it may be a sample."""
        mark = "    # a sample: write your own" if at in self._samples else ""
        self._lines.append(f"{' ' * indent}{_scalar(key)}: {_scalar(value)}{mark}")

    def line(self, text: str, indent: int = 0) -> None:
        """A line as it stands."""
        self._lines.append(" " * indent + text)

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def _scalar(value: str) -> str:
    """A text on one line that is read back as that text: bare where YAML allows it, else in double quotes."""
    if value.isprintable() and value and not set(value) & set("{}[],&*#?|<>=!%@`'\""):
        bare = yaml.safe_dump(value, width=10**6, allow_unicode=True, default_flow_style=True).removesuffix("\n...\n").rstrip("\n")
        if bare == value:
            return value
    return json.dumps(value, ensure_ascii=False)


def _flow(values: Sequence[str]) -> str:
    return "[" + ", ".join(_scalar(value) for value in values) + "]"


def _head(writer: _Writer, draft: Draft, name: str) -> None:
    writer.comment(
        "The config of one dsqlcdc pipeline, begun by `dsqlcdc init`. Unknown keys are errors; `dsqlcdc config schema` has every key."
    )
    writer.comment("${VARIABLE} and ${VARIABLE:default} work in every text; relative paths are relative to this file.", "", "Next:")
    commands = next_commands(draft, name)
    width = max(len(command) for command, _ in commands)
    for command, does in commands:
        writer.comment(f"  {command:{width}}  {does}")
    writer.gap()
    writer.comment("Names checkpoints, metrics and dead letters. With another name everything is read and delivered anew.")
    writer.value("pipeline", draft.pipeline, at="pipeline")
    writer.gap()


def _source(writer: _Writer, draft: Draft) -> None:
    if draft.region is not None or draft.endpoint_url is not None:
        writer.comment("Credentials come from the standard chain (environment, profile, role), never from this file.")
        writer.block("aws")
        if draft.region is not None:
            writer.value("region", draft.region, at="aws.region", indent=2)
        if draft.endpoint_url is not None:
            writer.comment("Something that is not AWS. Take the line out for AWS itself.", indent=2)
            writer.value("endpoint_url", draft.endpoint_url, at="aws.endpoint_url", indent=2)
        writer.gap()
    writer.comment("The Kinesis data stream that DSQL writes to, by name or ARN.")
    writer.block("source")
    writer.value("stream", draft.stream, at="source.stream", indent=2)
    if draft.host == "lambda":
        writer.comment("Where to begin is what the trigger says (its starting position), not this file.", indent=2)
    else:
        writer.comment(
            "Where to begin while there is no checkpoint: trim_horizon (the oldest record), latest, or an ISO time with a zone.", indent=2
        )
        writer.value("start", draft.start, at="source.start", indent=2)
    writer.gap()


def _tables(writer: _Writer, draft: Draft) -> None:
    writer.comment(
        "The primary-key columns of each table, in order: a record does not say them. A pattern matches schema.table, the first match wins.",
        "A table without a key is delivered at least once; with one, S3 gets every change exactly once.",
    )
    if not draft.tables:
        writer.comment("tables:", '  "public.orders": {key: [order_id, item_id]}', '  "public.*": {key: [id]}')
        writer.gap()
        return
    writer.block("tables")
    for pattern, columns in draft.tables.items():
        mark = "    # a sample: write your own" if "tables" in draft.samples else ""
        writer.line(f"{json.dumps(pattern, ensure_ascii=False)}: {{key: {_flow(columns)}}}{mark}", indent=2)
    writer.gap()


def _sinks(writer: _Writer, draft: Draft) -> None:
    writer.comment(
        "Where changes go. Each sink has its own checkpoint and pace, and its name is its memory. Every sink also takes `tables` (patterns),",
        "`ops`, `order`, `start`, and `mask` and `exclude` to hide columns.",
    )
    writer.block("sinks")
    for name, kind in draft.sinks.items():
        writer.block(name, indent=2)
        writer.value("type", kind, indent=4)
        _OPTIONS[kind](writer, draft, f"sinks.{name}")
    writer.gap()


def _s3(writer: _Writer, draft: Draft, at: str) -> None:
    writer.value("bucket", draft.bucket, at=f"{at}.bucket", indent=4)
    writer.comment("Goes before data/ and manifests/ as it stands: end it with a slash. One sink each.", indent=4)
    writer.value("prefix", draft.prefix, at=f"{at}.prefix", indent=4)
    if draft.host != "lambda":
        writer.comment("An object is written at so many bytes, or when its first change is so old.", indent=4)
        writer.line("roll: {bytes: 64MiB, age: 60s}", indent=4)


def _webhook(writer: _Writer, draft: Draft, at: str) -> None:
    writer.value("url", draft.webhook_url, at=f"{at}.url", indent=4)
    if draft.webhook_url.startswith("http://"):
        writer.comment("Plain http, and receivers on this machine: for trying out.", indent=4)
        writer.line("allow_http: true", indent=4)
        writer.line("allow_private: [127.0.0.0/8]", indent=4)
    writer.comment(
        "Requests are signed with it (Standard Webhooks), and the receiver checks with the same. This one was drawn for this file:",
        "set HOOK_SECRET where it runs, and take the default out, so that no secret stands in a file.",
        indent=4,
    )
    writer.line(f'secrets: ["${{HOOK_SECRET:{draft.secret}}}"]', indent=4)


def _opensearch(writer: _Writer, draft: Draft, at: str) -> None:
    writer.value("url", draft.opensearch_url, at=f"{at}.url", indent=4)
    writer.comment("Begins the names of all indexes and aliases: table public.orders is searched as cdc-public.orders.", indent=4)
    writer.value("index_prefix", "cdc-", indent=4)
    if draft.opensearch_auth == "basic":
        writer.comment("Set OPENSEARCH_PASSWORD where it runs.", indent=4)
        writer.line('basic: {user: "${OPENSEARCH_USER:admin}", password: "${OPENSEARCH_PASSWORD:not-set}"}', indent=4)
    elif draft.opensearch_auth == "sign":
        writer.comment(
            "Requests are signed with the AWS credentials. A cluster of your own: basic: {user: …, password: …} in its place.", indent=4
        )
        writer.line("sign: {}", indent=4)


def _plain(writer: _Writer, draft: Draft, at: str) -> None:
    writer.comment("Takes no options of its own.", indent=4)


_OPTIONS = {"s3": _s3, "webhook": _webhook, "opensearch": _opensearch, "stdout": _plain, "drop": _plain}


def _stores(writer: _Writer, draft: Draft) -> None:
    if draft.host != "lambda":
        _state(writer, draft)
    writer.comment("Records that cannot be delivered, with their exact bytes and the reason: `dsqlcdc dead list`.")
    if draft.store_bucket:
        writer.block("dead_letters")
        writer.value("type", "s3", indent=2)
        writer.value("bucket", draft.store_bucket, at="dead_letters.bucket", indent=2)
    else:
        writer.line("dead_letters: {type: files, path: dead-letters}")
    writer.gap()
    writer.comment("Oversized rows come in pieces over all shards; pieces wait here for the others.")
    if draft.store_bucket:
        writer.block("fragments")
        writer.value("type", "s3", indent=2)
        writer.value("bucket", draft.store_bucket, at="fragments.bucket", indent=2)
    elif draft.state == "sqlite":
        writer.line("fragments: {type: sqlite, path: fragments.db}")
    else:
        writer.comment("In memory they hold the checkpoint back; with {type: s3, bucket: …} they do not.")
        writer.line("fragments: {type: memory}")
    writer.gap()


def _state(writer: _Writer, draft: Draft) -> None:
    writer.comment("Checkpoints and gaps.")
    if draft.state == "dynamodb":
        writer.comment("One table serves any number of pipelines; it is made where it is missing.")
        writer.block("state")
        writer.value("type", "dynamodb", indent=2)
        writer.value("table", draft.state_table, at="state.table", indent=2)
        writer.line("create: true", indent=2)
    elif draft.state == "memory":
        writer.comment("Forgotten at the end: each start reads everything again. For trying out.")
        writer.line("state: {type: memory}")
    else:
        writer.comment("On a local disk that outlives the process.")
        writer.line("state: {type: sqlite, path: state.db}")
    writer.gap()


def _rest(writer: _Writer, draft: Draft) -> None:
    if draft.listen is not None and draft.host != "lambda":
        writer.comment(
            "The page at /, /healthz, /readyz, /status, /metrics. Read only; without a `token: ${VARIABLE}` whoever reaches the address sees it."
        )
        writer.block("http")
        writer.value("listen", draft.listen, at="http.listen", indent=2)
        writer.gap()
    if draft.cluster is not None:
        writer.comment("What `dsqlcdc stream apply` makes, `doctor` checks and the daemon watches: the CDC stream of this cluster.")
        writer.block("stream")
        writer.value("cluster", draft.cluster, at="stream.cluster", indent=2)
        writer.comment("What to do about a broken CDC stream: explain it, or apply its remedy.", indent=2)
        writer.line("remedies: {default: explain}", indent=2)
    else:
        writer.comment(
            "With a block `stream` the CDC stream is made, checked and watched:", "stream: {cluster: IDENTIFIER OF 26 CHARACTERS}"
        )

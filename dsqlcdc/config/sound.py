"""Combinations that would run and be wrong: refused at start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from dsqlcdc.config.findings import Findings, nearest
from dsqlcdc.config.models import ARN, S3DeadLetters, S3Fragments
from dsqlcdc.config.regions import doubt
from dsqlcdc.config.resolved import Config, SinkConfig
from dsqlcdc.contract import Sink
from dsqlcdc.units import format_duration

_THROWAWAY = ("drop", "stdout")


@dataclass(frozen=True)
class Places:
    """Where sinks write, by their names. `lakes`: bucket and prefix of each s3 sink; `indexes`: nodes and prefix of each opensearch sink."""

    lakes: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    indexes: dict[str, tuple[frozenset[str], str]] = field(default_factory=dict[str, tuple[frozenset[str], str]])


def check_sound(config: Config, classes: Mapping[str, type[Sink] | None], places: Places, findings: Findings) -> None:
    """Report what is unsound. `classes`: each sink's class, if known."""
    _times(config, findings)
    _stores(config, findings)
    _patterns(config, findings)
    _names(config, findings)
    for name, sink in config.sinks.items():
        _keys(config, sink, classes.get(name), findings)
        _commit_order(sink, classes.get(name), findings)
        _memory(config, sink, findings)
        _masks(config, sink, findings)
        _idle_masks(sink, findings)
    _lakes(places.lakes, findings)
    _indexes(places.indexes, findings)
    _letters(config, places.lakes, findings)
    _claims(config, places.lakes, findings)
    _region(config, findings)
    _stream(config, findings)
    _http(config, findings)


def _times(config: Config, findings: Findings) -> None:
    source, pieces = config.source, config.fragments.max_age
    if source.skew > source.lateness:
        why = "a duplicate on a shard that lags would come after its original was forgotten"
        fix = f"Write skew: {format_duration(source.lateness)} or less, or a longer lateness"
        findings.at("E023", ("source", "skew"), "skew is longer than lateness", why=why, fix=fix)
    if pieces < source.skew:
        why = "pieces on a shard that lags would be given up before they were read"
        findings.at(
            "E028", ("fragments", "max_age"), "max_age is shorter than skew", why=why, fix=f"Write {format_duration(source.skew)} or more"
        )


def _stores(config: Config, findings: Findings) -> None:
    paths: dict[str, str] = {}
    for block, store in (("state", config.state), ("fragments", config.fragments), ("dead_letters", config.dead_letters)):
        path = getattr(store, "path", None)
        if path is None:
            continue
        real = os.path.normcase(os.path.abspath(path))
        if real in paths:
            findings.at(
                "E025",
                (block, "path"),
                f"{block} and {paths[real]} have one path",
                why="each keeps its own format",
                fix="Give each its own",
            )
        paths.setdefault(real, block)
    letters, pieces = config.dead_letters, config.fragments
    places = [(store.bucket, store.prefix) for store in (letters, pieces) if isinstance(store, (S3DeadLetters, S3Fragments))]
    if len(set(places)) < len(places):
        what, why = "fragments and dead_letters have one place", "each keeps its own format"
        findings.at("E025", ("fragments", "prefix"), what, why=why, fix="Give each its own prefix")
    if config.state.type == "dynamodb" and config.fragments.type == "sqlite":
        why = "another machine would go on behind records whose pieces wait here only, and their rows would be lost with this one"
        fix = "Write fragments: {type: s3, bucket: …}; or {type: memory}, which holds the checkpoint back while pieces wait"
        findings.at("E030", ("fragments", "type"), "pieces on this machine with a state that is shared", why=why, fix=fix)


def _patterns(config: Config, findings: Findings) -> None:
    seen: list[str] = []
    for pattern in config.tables:
        before = next((p for p in seen if not set(p) & set("?[") and fnmatchcase(pattern, p)), None)
        if before is not None:
            why = f"{before!r} above matches the same tables, and the first match wins"
            findings.at(
                "E026", ("tables", pattern), f"the pattern {pattern!r} never matches", why=why, fix=f"Move it above {before!r}", key=True
            )
        seen.append(pattern)


def _names(config: Config, findings: Findings) -> None:
    seen: dict[str, str] = {}
    for name in config.sinks:
        if (other := seen.setdefault(name.lower(), name)) != name:
            why = f"{other!r} differs only in case, and names become file names"
            findings.at("E029", ("sinks", name), f"the sink name {name!r} is not distinct", why=why, fix="Choose another", key=True)


def _keys(config: Config, sink: SinkConfig, cls: type[Sink] | None, findings: Findings) -> None:
    if any(table.key for table in config.tables.values()):
        return
    fix = 'Add tables: {"schema.table": {key: [column]}}'
    if sink.order == "latest":
        why = "which of two changes is the later is asked by key, and no table has one"
        findings.at("E020", ("sinks", sink.name, "order"), f"sink {sink.name!r} wants order 'latest' without keys", why=why, fix=fix)
    elif cls is not None and cls.needs_key:
        why = "every change would become a dead letter: no table has a key"
        findings.at("E021", ("sinks", sink.name), f"sink {sink.name!r} needs keys", why=why, fix=fix, key=True)


def _commit_order(sink: SinkConfig, cls: type[Sink] | None, findings: Findings) -> None:
    path = ("sinks", sink.name, "hold_back")
    if sink.order != "commit" and path in findings.tree.values:
        why = f"order {sink.order!r} holds nothing back"
        findings.at("E048", path, "hold_back without order commit", why=why, fix="Write order: commit, or remove it", key=True)
    if sink.order == "commit" and cls is not None and cls.needs_order:
        why = "what comes later than hold_back is out of order, and this sink would put an old row over a newer one"
        findings.at("E049", ("sinks", sink.name, "order"), "an order that is not strict enough", why=why, fix="Write order: latest")


def _memory(config: Config, sink: SinkConfig, findings: Findings) -> None:
    start = config.source.start if sink.start is None else sink.start
    if config.state.type == "memory" and start == "latest" and sink.type not in _THROWAWAY:
        path = ("sinks", sink.name, "start") if sink.start is not None else ("source", "start")
        why = f"after each restart sink {sink.name!r} would miss what was committed meanwhile, and nothing would say so"
        findings.at(
            "E024", path, "start latest with a state that is forgotten", why=why, fix="Use state: {type: sqlite}, or start: trim_horizon"
        )


def _masks(config: Config, sink: SinkConfig, findings: Findings) -> None:
    raw = "raw" if sink.options.get("raw") else "format" if sink.options.get("format") == "raw" else None
    if sink.masks and raw is not None:
        why = "the record as received holds what is masked"
        findings.at("E038", ("sinks", sink.name, raw), "raw beside masked columns", why=why, fix="Remove raw, or mask and exclude")
    for pattern, columns in sink.masks.items():
        for tables, table in config.tables.items():
            named = sorted(set(columns) & set(table.key or ()))
            if named and (fnmatchcase(tables, pattern) or fnmatchcase(pattern, tables)):
                why = f"{named[0]!r} is a key column of {tables!r}: it says which row a change is of"
                findings.at("E039", ("sinks", sink.name), "a column of the key cannot be masked", why=why, fix="Choose others")
                return


def _idle_masks(sink: SinkConfig, findings: Findings) -> None:
    for pattern in sink.masks if sink.tables is not None else ():
        if not any(_may_meet(pattern, tables) for tables in sink.tables or ()):
            path = ("sinks", sink.name, "mask", pattern)
            if path not in findings.tree.values:
                path = ("sinks", sink.name, "exclude", pattern)
            why = f"the sink takes {', '.join(sink.tables or ())} only, so nothing would be hidden by it"
            fix = nearest(pattern, sink.tables or ()) or "Write one of the sink's tables"
            findings.at("E026", path, f"the pattern {pattern!r} never matches", why=why, fix=fix, key=True)


def _may_meet(one: str, two: str) -> bool:
    """May some table match both patterns? Of two that are no plain names it is taken for granted."""
    wild = set("*?[")
    if wild & set(one) and wild & set(two):
        return True
    return fnmatchcase(one, two) or fnmatchcase(two, one)


def _lakes(places: Mapping[str, tuple[str, str]], findings: Findings) -> None:
    seen: dict[tuple[str, str], str] = {}
    for name, place in places.items():
        other = next((n for p, n in seen.items() if _overlap(p, place)), None)
        if other is not None:
            why = f"sink {other!r} writes there too, and each would void what the other begins"
            findings.at(
                "E022",
                ("sinks", name),
                f"sink {name!r} writes to a place that is taken",
                why=why,
                fix="Give it a prefix of its own",
                key=True,
            )
        seen.setdefault(place, name)


def _indexes(places: Mapping[str, tuple[frozenset[str], str]], findings: Findings) -> None:
    seen: dict[str, tuple[frozenset[str], str]] = {}
    for name, (nodes, prefix) in places.items():
        other = next((n for n, (theirs, taken) in seen.items() if prefix == taken and nodes & theirs), None)
        if other is not None:
            why = f"sink {other!r} keeps indexes of the same names there, and each would judge by the other's documents"
            what, fix = f"sink {name!r} writes to a place that is taken", "Give it an index_prefix of its own"
            findings.at("E022", ("sinks", name), what, why=why, fix=fix, key=True)
        seen[name] = (nodes, prefix)


def _letters(config: Config, places: Mapping[str, tuple[str, str]], findings: Findings) -> None:
    letters, pieces = config.dead_letters, config.fragments
    for block, store, what in (("dead_letters", letters, "dead letters"), ("fragments", pieces, "fragments")):
        if not isinstance(store, (S3DeadLetters, S3Fragments)):
            continue
        for name, (bucket, prefix) in places.items():
            if bucket == store.bucket and _inside(store.prefix, prefix):
                why = f"sink {name!r} writes there, and readers of the lake would take them for rows"
                findings.at("E022", (block, "prefix"), f"{what} inside a lake", why=why, fix="Give them a prefix of their own")


def _claims(config: Config, places: Mapping[str, tuple[str, str]], findings: Findings) -> None:
    for sink in config.sinks.values():
        check: Any = sink.options.get("claim_check")
        if not isinstance(check, dict):
            continue
        given: dict[str, Any] = check  # pyright: ignore[reportUnknownVariableType]
        for name, (bucket, prefix) in places.items():
            if given.get("bucket") == bucket and _inside(str(given.get("prefix", "claims/")), prefix):
                why = f"sink {name!r} writes there, and readers of the lake would take claims for rows"
                path = ("sinks", sink.name, "claim_check")
                findings.at("E022", path, "claims inside a lake", why=why, fix="Give them a prefix of their own", key=True)


def _overlap(one: tuple[str, str], two: tuple[str, str]) -> bool:
    if one[0] != two[0]:
        return False
    short, long = sorted((one[1], two[1]), key=len)
    return _inside(long, short)


def _inside(prefix: str, lake: str) -> bool:
    """Is what begins with `prefix` among what a lake with the prefix `lake` writes?"""
    return prefix == lake or prefix.startswith((f"{lake}data/", f"{lake}manifests/"))


def _region(config: Config, findings: Findings) -> None:
    arn = ARN.fullmatch(config.source.stream)
    key = (config.stream.kinesis.kms_key or "").split(":") if config.stream is not None else [""]
    named = [
        (("aws", "region"), config.aws.region or ""),
        (("source", "stream"), arn[1] if arn else ""),
        (("stream", "kinesis", "kms_key"), key[3] if key[0] == "arn" else ""),
    ]
    for path, region in named if config.aws.endpoint_url is None else ():  # what is not AWS may call its Regions what it likes
        found = doubt(region) if region else None
        if found is not None:
            if found.severity == "error":
                findings.at("E044", path, f"there is no Region {region}", why=found.why, fix=found.fix)
            else:
                findings.remark("E044", path, f"the Region {region} is not known", why=found.why, fix=found.fix)
    if arn and config.aws.region and arn[1] != config.aws.region:
        why = f"the stream is in {arn[1]}"
        findings.at(
            "E027", ("aws", "region"), f"the Region {config.aws.region} is not the stream's", why=why, fix=f"Write region: {arn[1]}"
        )


def _stream(config: Config, findings: Findings) -> None:
    if config.stream is None:
        return
    kinesis, read = config.stream.kinesis, config.source.stream.rpartition("/")[2]
    if kinesis.name is not None and kinesis.name != read:
        why = f"source.stream reads {read!r}, and nothing would arrive there"
        findings.at("E040", ("stream", "kinesis", "name"), f"DSQL would write to {kinesis.name!r}", why=why, fix=f"Write name: {read}")
    arn = ARN.fullmatch(config.source.stream)
    region = config.aws.region or (arn[1] if arn else None)
    _remedies(config, findings)
    key = (kinesis.kms_key or "").split(":")
    if region and key[0] == "arn" and key[3] != region:
        why = f"a Kinesis stream in {region} takes keys of its own Region only"
        findings.at("E042", ("stream", "kinesis", "kms_key"), f"the KMS key is in {key[3]}", why=why, fix=f"Name a key in {region}")


def _remedies(config: Config, findings: Findings) -> None:
    assert config.stream is not None
    said = config.stream.remedies.model_dump(exclude_none=True)
    applied = [code for code, word in said.items() if word == "apply"]
    if config.state.type == "memory" and applied:
        what = "two processes that apply remedies would not know of each other"
        why = "the lease and the journal of what was done are in the state, and this one ends with its process; nor is a CDC stream created again"
        fix = "Write state: {type: sqlite} or {type: dynamodb}, or run one process only"
        findings.remark("E045", ("stream", "remedies", applied[0]), what, why=why, fix=fix)


def _http(config: Config, findings: Findings) -> None:
    if config.http is not None and config.http.exposed and config.http.token is None:
        why = "whoever reaches this address sees tables, keys of shards, errors and commands of the pipeline"
        fix = "Write token: '${DSQLCDC_TOKEN}' beside it, or listen on 127.0.0.1"
        findings.remark("E046", ("http", "listen"), "the page is served beyond this machine without a token", why=why, fix=fix)


def lake_place(options: Any) -> tuple[str, str] | None:
    """Bucket and prefix of validated options, if they have both."""
    bucket, prefix = getattr(options, "bucket", None), getattr(options, "prefix", "")
    return (bucket, prefix) if isinstance(bucket, str) and isinstance(prefix, str) else None


def index_place(options: Any) -> tuple[frozenset[str], str] | None:
    """Nodes and index prefix of validated options, if they have both."""
    urls, prefix = getattr(options, "url", None), getattr(options, "index_prefix", None)
    if not isinstance(urls, tuple) or not isinstance(prefix, str):
        return None
    nodes: tuple[str, ...] = urls  # pyright: ignore[reportUnknownVariableType]
    return frozenset(str(node).rstrip("/").lower() for node in nodes), prefix

"""Combinations that would run and be wrong: refused at start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from dsqlcdc.config.findings import Findings
from dsqlcdc.config.models import ARN, S3DeadLetters, S3Fragments
from dsqlcdc.config.resolved import Config, SinkConfig
from dsqlcdc.contract import Sink
from dsqlcdc.units import format_duration

_THROWAWAY = ("drop", "stdout")


def check_sound(
    config: Config, classes: Mapping[str, type[Sink] | None], places: Mapping[str, tuple[str, str]], findings: Findings
) -> None:
    """Report what is unsound. `classes`: each sink's class, if known; `places`: bucket and prefix of each s3 sink."""
    _times(config, findings)
    _stores(config, findings)
    _patterns(config, findings)
    _names(config, findings)
    for name, sink in config.sinks.items():
        _keys(config, sink, classes.get(name), findings)
        _memory(config, sink, findings)
        _masks(config, sink, findings)
    _lakes(places, findings)
    _letters(config, places, findings)
    _region(config, findings)


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


def _memory(config: Config, sink: SinkConfig, findings: Findings) -> None:
    start = config.source.start if sink.start is None else sink.start
    if config.state.type == "memory" and start == "latest" and sink.type not in _THROWAWAY:
        path = ("sinks", sink.name, "start") if sink.start is not None else ("source", "start")
        why = f"after each restart sink {sink.name!r} would miss what was committed meanwhile, and nothing would say so"
        findings.at(
            "E024", path, "start latest with a state that is forgotten", why=why, fix="Use state: {type: sqlite}, or start: trim_horizon"
        )


def _masks(config: Config, sink: SinkConfig, findings: Findings) -> None:
    if sink.masks and sink.options.get("raw"):
        why = "the record as received holds what is masked"
        findings.at("E038", ("sinks", sink.name, "raw"), "raw beside masked columns", why=why, fix="Remove raw, or mask and exclude")
    for pattern, columns in sink.masks.items():
        for tables, table in config.tables.items():
            named = sorted(set(columns) & set(table.key or ()))
            if named and (fnmatchcase(tables, pattern) or fnmatchcase(pattern, tables)):
                why = f"{named[0]!r} is a key column of {tables!r}: it says which row a change is of"
                findings.at("E039", ("sinks", sink.name), "a column of the key cannot be masked", why=why, fix="Choose others")
                return


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


def _letters(config: Config, places: Mapping[str, tuple[str, str]], findings: Findings) -> None:
    letters, pieces = config.dead_letters, config.fragments
    for block, store, what in (("dead_letters", letters, "dead letters"), ("fragments", pieces, "fragments")):
        if not isinstance(store, (S3DeadLetters, S3Fragments)):
            continue
        for name, (bucket, prefix) in places.items():
            if bucket == store.bucket and store.prefix.startswith((f"{prefix}data/", f"{prefix}manifests/")):
                why = f"sink {name!r} writes there, and readers of the lake would take them for rows"
                findings.at("E022", (block, "prefix"), f"{what} inside a lake", why=why, fix="Give them a prefix of their own")


def _overlap(one: tuple[str, str], two: tuple[str, str]) -> bool:
    if one[0] != two[0]:
        return False
    short, long = sorted((one[1], two[1]), key=len)
    return short == long or long.startswith((f"{short}data/", f"{short}manifests/"))


def _region(config: Config, findings: Findings) -> None:
    arn = ARN.fullmatch(config.source.stream)
    if arn and config.aws.region and arn[1] != config.aws.region:
        why = f"the stream is in {arn[1]}"
        findings.at(
            "E027", ("aws", "region"), f"the Region {config.aws.region} is not the stream's", why=why, fix=f"Write region: {arn[1]}"
        )


def lake_place(options: Any) -> tuple[str, str] | None:
    """Bucket and prefix of validated options, if they have both."""
    bucket, prefix = getattr(options, "bucket", None), getattr(options, "prefix", "")
    return (bucket, prefix) if isinstance(bucket, str) and isinstance(prefix, str) else None

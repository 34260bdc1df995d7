"""From a file to a Config, or to every finding in it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import msgspec
from pydantic import ValidationError

from dsqlcdc.config.explain import explain
from dsqlcdc.config.files import check_files
from dsqlcdc.config.findings import Finding, Findings
from dsqlcdc.config.models import Aws, File, MaskWord, SinkCommon
from dsqlcdc.config.partial import check_partial
from dsqlcdc.config.resolved import HOLD_BACK, Config, SinkConfig
from dsqlcdc.config.show import secrets_of
from dsqlcdc.config.sound import Places, check_sound, index_place, lake_place
from dsqlcdc.config.tree import Place, parse
from dsqlcdc.config.variables import Variables
from dsqlcdc.contract import Context, Sink
from dsqlcdc.errors import ConfigError
from dsqlcdc.plugins import sink_class, sink_factory

_COMMON = tuple(SinkCommon.model_fields)


def load(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Config:
    """The config of a YAML file. Raises ConfigError, whose `findings` are all mistakes in the file, by line and column."""
    config, findings = _read(Path(path), environ, whole=True)
    return _or_raise(config, findings.sorted(), str(path))


def load_partial(body: bytes, name: str, directory: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """The config in these bytes, for a process that does not see every shard (Lambda). `name` is what errors call it, paths in it are
    relative to `directory`. Raises as `load` does, for what is unsound there too."""
    found = Findings(name)
    config = _understand(directory / "config", body, environ, found, whole=False)
    return _or_raise(config, found.sorted(), name)


def _or_raise(config: Config | None, findings: list[Finding], name: str) -> Config:
    if config is not None and not findings:
        return config
    if len(findings) == 1:
        raise findings[0]
    what = f"the config has {len(findings)} mistakes"
    why = "; ".join(f"line {f.line}: {f.what}" for f in findings[:5]) + ("; …" if len(findings) > 5 else "")
    raise ConfigError(what, where=name, why=why, run=f"dsqlcdc config lint {name}", findings=findings)


def lint(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ, *, whole: bool = True) -> list[Finding]:
    """Every mistake in a YAML file, by line and column; none means that `load` gives a Config. `whole` False: for Lambda."""
    return _read(Path(path), environ, whole=whole)[1].sorted()


def look(
    path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ, *, whole: bool = True
) -> tuple[list[Finding], list[Finding]]:
    """The mistakes as `lint` gives them, and the warnings: what runs, and may not be what was meant."""
    findings = _read(Path(path), environ, whole=whole)[1]
    return findings.sorted(), findings.remarks()


def lint_bytes(body: bytes, path: Path, environ: Mapping[str, str] = os.environ, *, whole: bool = True) -> list[Finding]:
    """As `lint`, of what is to stand in the file at `path`."""
    findings = Findings(str(path))
    _understand(path, body, environ, findings, whole=whole)
    return findings.sorted()


def _read(path: Path, environ: Mapping[str, str], *, whole: bool) -> tuple[Config | None, Findings]:
    findings = Findings(str(path))
    body = _body(path, findings)
    config = None if body is None else _understand(path, body, environ, findings, whole=whole)
    return config, findings


def _body(path: Path, findings: Findings) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError as error:
        why = (error.strerror or "it cannot be opened").lower()
        findings.place("E002", Place(), "the config file cannot be read", why=why, fix="Check the path and its permissions")
    return None


def _understand(path: Path, body: bytes, environ: Mapping[str, str], findings: Findings, *, whole: bool) -> Config | None:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        column = error.start - (body.rfind(b"\n", 0, error.start) + 1) + 1
        findings.place("E003", Place(line, column), "the file is not UTF-8", why=f"byte {body[error.start]:#04x}", fix="Save it as UTF-8")
        return None

    def report(code: str, place: Place, what: str, why: str, fix: str) -> None:
        findings.place(code, place, what, why=why, fix=fix)

    findings.tree = parse(text, report, Variables(environ, findings).expand)
    data = findings.tree.data
    if data is None and findings:
        return None
    if not isinstance(data, dict) or not data:
        findings.place(
            "E004", Place(), "the file holds no config", why="a mapping (key: value) is expected", fix="Begin with pipeline: NAME"
        )
        return None
    named: dict[str, Any] = cast(dict[str, Any], data)
    findings.hide([*secrets_of(named.get("sinks")), *secrets_of(named.get("http"))])
    file, options = _validate(named, path.parent, findings)
    aws = file.aws if file is not None else Aws()
    context = Context(
        str(named.get("pipeline")),
        "",
        str(path.parent),
        region=aws.region,
        profile=aws.profile,
        endpoint_url=aws.endpoint_url,
        whole=whole,
    )
    classes, defaults, places, made = _sinks(named, options, context, findings)
    if file is None:
        return None
    config = _resolve(file, options, defaults, path, hashlib.sha256(body).hexdigest())
    _models(config, findings)
    check_sound(config, classes, places, findings)
    if not whole:
        check_partial(config, made, findings)
    return replace(config, remarks=tuple(remark.told() for remark in findings.remarks()))


def _validate(data: dict[str, Any], directory: Path, findings: Findings) -> tuple[File | None, dict[str, dict[str, Any]]]:
    """The validated file and each sink's own options, which its factory validates."""
    options: dict[str, dict[str, Any]] = {}
    written = dict(data)
    if isinstance(sinks := data.get("sinks"), dict):
        common: dict[str, Any] = {}
        for name, sink in cast(dict[str, Any], sinks).items():
            if isinstance(sink, dict):
                own = cast(dict[str, Any], sink)
                common[name] = {key: own[key] for key in own if key in _COMMON}
                options[name] = {key: own[key] for key in own if key not in _COMMON}
            else:
                common[name] = sink
        written["sinks"] = common
    try:
        return File.model_validate(written, context={"directory": str(directory)}), options
    except ValidationError as error:
        # The input is asked for only to name a misspelt choice; what may be secret is hidden by Findings.
        explain(error.errors(include_url=False), findings, File)
        return None, options


_Sinks = tuple[dict[str, type[Sink] | None], dict[str, str], Places, dict[str, Sink]]


def _sinks(data: dict[str, Any], options: dict[str, dict[str, Any]], context: Context, findings: Findings) -> _Sinks:
    """Make every sink once, which does no I/O, to have its options checked. Answers with classes, default orders, places, sinks."""
    classes: dict[str, type[Sink] | None] = {}
    orders: dict[str, str] = {}
    places = Places()
    made: dict[str, Sink] = {}
    for name, own in options.items():
        kind = data["sinks"][name].get("type")
        if not isinstance(kind, str) or not kind:
            continue
        try:
            factory = sink_factory(kind)
        except ConfigError as error:
            why, _, fix = error.why.partition(". Did")
            findings.at(error.code, ("sinks", name, "type"), error.what, why=why, fix=f"Did{fix}" if fix else "")
            continue
        cls = classes[name] = sink_class(factory)
        orders[name] = cls.order if cls is not None else Sink.order
        model = getattr(cls, "Options", None)
        told = msgspec.structs.replace(context, sink=name)
        try:
            made[name] = factory(own, told)
            if model is not None:
                valid = model.model_validate(own)
                check_files(valid, Path(context.directory), ("sinks", name), findings)
                if kind == "s3" and (place := lake_place(valid)):
                    places.lakes[name] = place
                if kind == "opensearch" and (indexes := index_place(valid)):
                    places.indexes[name] = indexes
        except ValidationError as error:
            explain(error.errors(include_url=False), findings, model, ("sinks", name), _COMMON)
        except ConfigError as error:
            for finding in error.findings:
                findings.at("E017", ("sinks", name), finding.what, why=finding.why, key=True)
        except ValueError as error:
            findings.at("E017", ("sinks", name), f"sink {name!r} refuses its options", why=str(error), key=True)
    return classes, orders, places, made


def _masks(sink: SinkCommon) -> dict[str, dict[str, MaskWord]]:
    masks = {pattern: dict(columns) for pattern, columns in sink.mask.items()}
    for pattern, columns in sink.exclude.items():
        masks.setdefault(pattern, {}).update(dict.fromkeys(columns, "drop"))
    return masks


def _resolve(file: File, options: dict[str, dict[str, Any]], orders: dict[str, str], path: Path, sha256: str) -> Config:
    sinks = {
        name: SinkConfig(
            name=name,
            type=sink.type,
            tables=sink.tables,
            ops=sink.ops,
            order=sink.order or orders.get(name, Sink.order),
            start=sink.start,
            options=MappingProxyType(options.get(name, {})),
            masks=MappingProxyType(_masks(sink)),
            mask_key=None if sink.mask_key is None else sink.mask_key.get_secret_value(),
            hold_back=HOLD_BACK if sink.hold_back is None else sink.hold_back,
        )
        for name, sink in file.sinks.items()
    }
    return Config(
        pipeline=file.pipeline,
        aws=file.aws,
        source=file.source,
        tables=MappingProxyType(dict(file.tables)),
        sinks=MappingProxyType(sinks),
        state=file.state,
        dead_letters=file.dead_letters,
        fragments=file.fragments,
        http=file.http,
        stream=file.stream,
        path=path,
        directory=path.parent,
        sha256=sha256,
    )


def _models(config: Config, findings: Findings) -> None:
    """Import and check the row models that tables name."""
    for pattern, table in config.tables.items():
        if table.model is None:
            continue
        from dsqlcdc.columns.check import load_model

        try:
            load_model(table.model, str(config.directory))
        except ConfigError as error:
            for finding in error.findings:
                findings.at("E018", ("tables", pattern, "model"), finding.what, why=finding.why)

"""Traces: a span for each batch that a sink is given, where OpenTelemetry is installed and its variables ask for it; nothing otherwise."""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dsqlcdc import __version__
from dsqlcdc.contract import Change, Setback, Sink
from dsqlcdc.core.around import Around
from dsqlcdc.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

__all__ = ["Traced", "Wrap", "tracing", "wanted"]

log = logging.getLogger("dsqlcdc.traces")

Wrap = Callable[[str, Sink], Sink]
"""A sink, by its name, as it is to be run."""
SHARDS, TABLES = 64, 16
"""So many of a batch are named in a span; the others are counted."""
_ASKS = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def wanted(environ: Mapping[str, str]) -> bool:
    """Do the standard variables ask for traces? OTEL_SDK_DISABLED and OTEL_TRACES_EXPORTER=none say no, whatever else is set."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(environ.get(name) for name in _ASKS)


@contextmanager
def tracing(
    pipeline: str, environ: Mapping[str, str] = os.environ, processor: SpanProcessor | None = None
) -> Generator[Wrap | None, None, None]:
    """Gives what wraps a sink to be traced; None where nobody asks for traces, and then nothing is imported. Leaving flushes what is not
    exported yet.

    A provider that was set up before (by `opentelemetry-instrument`) is used as it is. `processor` takes the spans in place of the exporter
    that the variables name. Raises ConfigError (E047) for an exporter that is not known here.
    """
    if processor is None and not wanted(environ):
        yield None
        return
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("OTEL_… variables ask for traces, and OpenTelemetry is not installed. Run: pip install 'dsqlcdc[otel]'")
        yield None
        return
    existing = trace.get_tracer_provider()
    if processor is None and isinstance(existing, TracerProvider):
        yield _wrap(existing.get_tracer("dsqlcdc", __version__), pipeline)
        return
    name = environ.get("OTEL_SERVICE_NAME") or "dsqlcdc"
    provider = TracerProvider(resource=Resource.create({"service.name": name, "service.version": __version__}))
    provider.add_span_processor(processor or BatchSpanProcessor(_exporter(environ)))
    try:
        yield _wrap(provider.get_tracer("dsqlcdc", __version__), pipeline)
    finally:
        provider.shutdown()


def _wrap(tracer: Tracer, pipeline: str) -> Wrap:
    return lambda name, sink: Traced(sink, tracer, pipeline, name)


def _exporter(environ: Mapping[str, str]) -> SpanExporter:
    """The exporter that the variables name; what they say of address, headers and certificates it reads itself."""
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    kind = environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if kind == "console":
        return ConsoleSpanExporter(out=sys.stderr)  # stdout is data
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    if (kind, protocol) == ("otlp", "grpc"):
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as OverGrpc

        return OverGrpc()
    if (kind, protocol) == ("otlp", "http/protobuf"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OverHttp

        return OverHttp()
    where, said = ("OTEL_TRACES_EXPORTER", kind) if kind != "otlp" else ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    why = f"{said!r} is not known here: otlp (over http/protobuf or grpc), console, none"
    raise ConfigError("traces cannot be exported", where=where, why=why, run="dsqlcdc run --help", code="E047")


class Traced(Around):
    """A sink each of whose batches is a span, `dsqlcdc.deliver`: an attempt that fails, and the one after it, have a span each."""

    def __init__(self, sink: Sink, tracer: Tracer, pipeline: str, name: str) -> None:
        from opentelemetry.trace import SpanKind

        super().__init__(sink)
        self._tracer, self._kind = tracer, SpanKind.CLIENT
        self._named = {"dsqlcdc.pipeline": pipeline, "dsqlcdc.sink": name}

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        attributes = {**self._named, **describe(changes)}
        with self._tracer.start_as_current_span("dsqlcdc.deliver", kind=self._kind, attributes=attributes) as span:
            setbacks = await self.inner.write(changes)
            for verdict, count in Counter(setback.verdict.value for setback in setbacks).items():
                span.set_attribute(f"dsqlcdc.setbacks.{verdict}", count)
            return setbacks


def describe(changes: Sequence[Change]) -> dict[str, str | int | Sequence[str]]:
    """A batch as attributes of its span: how many and how large, of which tables, and of each shard the first and the last sequence number.
    Values of rows and keys are not among them."""
    first: dict[str, str] = {}
    last: dict[str, str] = {}
    tables: dict[str, None] = {}
    size = 0
    for change in changes:
        first.setdefault(change.shard, change.sequence)
        last[change.shard] = change.sequence
        tables[str(change.table)] = None
        size += len(change.raw)
    return {
        "messaging.system": "aws_kinesis",
        "messaging.operation.type": "send",
        "messaging.batch.message_count": len(changes),
        "dsqlcdc.batch.bytes": size,
        "dsqlcdc.tables": list(tables)[:TABLES],
        "dsqlcdc.shards": len(first),
        "dsqlcdc.positions": [f"{shard}:{first[shard]}..{last[shard]}" for shard in list(first)[:SHARDS]],
    }

"""Traces: one span a batch with the places it came from, nothing of rows; off and free where nobody asks."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, get_current_span

from dsqlcdc.contract import Change, Op, Setback, Sink, Table, Unavailable, Verdict
from dsqlcdc.errors import ConfigError
from dsqlcdc.testing import RecordingSink, check_sink
from dsqlcdc.traces import SHARDS, TABLES, tracing, wanted


def change(number: int, shard: str = "shardId-0", table: str = "orders") -> Change:
    made = Table("c", "public", table, ("id",))
    return Change(number.to_bytes(16), Op.INSERT, made, None, number, "t", None, None, b"secret row", shard, str(number), 1.0)


class Spans:
    """A sink traced into memory."""

    def __init__(self, sink: Sink) -> None:
        self.exporter = InMemorySpanExporter()
        self._context = tracing("orders-cdc", {}, SimpleSpanProcessor(self.exporter))
        wrap = self._context.__enter__()
        assert wrap is not None
        self.sink = wrap("lake", sink)

    @property
    def all(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    def attributes(self, number: int = -1) -> Mapping[str, object]:
        return dict(self.all[number].attributes or {})


async def test_a_batch_is_a_span_with_the_places_of_its_shards() -> None:
    spans = Spans(RecordingSink())
    await spans.sink.write([change(1), change(2, "shardId-7"), change(3), change(4, "shardId-7", "items"), change(5)])
    (span,) = spans.all
    assert (span.name, span.status.status_code) == ("dsqlcdc.deliver", StatusCode.UNSET)
    assert dict(span.resource.attributes)["service.name"] == "dsqlcdc"
    assert spans.attributes() == {
        "dsqlcdc.pipeline": "orders-cdc",
        "dsqlcdc.sink": "lake",
        "messaging.system": "aws_kinesis",
        "messaging.operation.type": "send",
        "messaging.batch.message_count": 5,
        "dsqlcdc.batch.bytes": 50,
        "dsqlcdc.tables": ("public.orders", "public.items"),
        "dsqlcdc.shards": 2,
        "dsqlcdc.positions": ("shardId-0:1..5", "shardId-7:2..4"),
    }


async def test_what_did_not_go_in_is_counted_and_a_failed_attempt_is_a_span_of_its_own() -> None:
    answers: list[Sequence[Setback] | Unavailable] = [
        Unavailable("the receiver is away"),
        [Setback(0, Verdict.STALE), Setback(1, Verdict.STALE), Setback(2, Verdict.RETRY)],
    ]

    async def answer(_: Sequence[Change]) -> Sequence[Setback]:
        given = answers.pop(0)
        if isinstance(given, Unavailable):
            raise given
        return given

    spans = Spans(RecordingSink(answer))
    batch = [change(n) for n in range(4)]
    with pytest.raises(Unavailable):
        await spans.sink.write(batch)
    await spans.sink.write(batch)
    failed, done = spans.all
    assert failed.status.status_code is StatusCode.ERROR
    assert "the receiver is away" in (failed.status.description or "")
    assert done.status.status_code is StatusCode.UNSET
    assert {n: v for n, v in spans.attributes().items() if "setbacks" in n} == {"dsqlcdc.setbacks.stale": 2, "dsqlcdc.setbacks.retry": 1}


async def test_what_a_sink_does_is_inside_its_span() -> None:
    seen: list[int] = []

    async def answer(_: Sequence[Change]) -> Sequence[Setback]:
        seen.append(get_current_span().get_span_context().span_id)
        return ()

    spans = Spans(RecordingSink(answer))
    await spans.sink.write([change(1)])
    context = spans.all[0].context
    assert context is not None
    assert seen == [context.span_id]
    assert not get_current_span().get_span_context().is_valid


async def test_a_span_is_bounded_and_holds_nothing_of_a_row() -> None:
    spans = Spans(RecordingSink())
    await spans.sink.write([change(n, f"shardId-{n}", f"t{n}") for n in range(1000)])
    attributes = spans.attributes()
    assert (len(attributes["dsqlcdc.positions"]), attributes["dsqlcdc.shards"]) == (SHARDS, 1000)  # type: ignore[arg-type]
    assert len(attributes["dsqlcdc.tables"]) == TABLES  # type: ignore[arg-type]
    assert "secret row" not in str(attributes)


async def test_a_traced_sink_is_the_sink_for_the_conformance_kit() -> None:
    kept: list[RecordingSink] = []

    def make() -> Sink:
        kept.append(RecordingSink())
        return Spans(kept[-1]).sink

    async def holds(wanted: Change) -> bool:
        return any(change.id == wanted.id for sink in kept for change in sink.written)

    assert await check_sink(make, holds=holds)


# whether -------------------------------------------------------------------------------------------------------------------------------

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("environ", "asks"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_the_standard_variables_say_whether(environ: dict[str, str], asks: bool) -> None:
    assert wanted(environ) is asks


def test_nobody_asks_and_nothing_is_imported() -> None:
    code = (
        "import sys, os\nimport dsqlcdc.cli.run, dsqlcdc.assemble, dsqlcdc.hosts.daemon\nfrom dsqlcdc.traces import tracing\n"
        "with tracing('p', {}) as wrap: assert wrap is None\nprint(*[name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_asked_for_and_not_installed_is_said_and_stops_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with tracing("p", ENDPOINT) as wrap:
        assert wrap is None
    assert "pip install 'dsqlcdc[otel]'" in caplog.text


@pytest.mark.parametrize(
    ("environ", "word"), [({"OTEL_TRACES_EXPORTER": "zipkin"}, "zipkin"), ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"}, "smoke")]
)
def test_an_exporter_that_is_not_known_is_an_error_at_start(environ: dict[str, str], word: str) -> None:
    with pytest.raises(ConfigError, match=f"E047.*{word}"), tracing("p", environ):
        pass


# whereto -------------------------------------------------------------------------------------------------------------------------------


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """A collector of OTLP over http, until left."""
    received: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = ExportTraceServiceRequest()
            request.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
            received.append(request)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", received
        finally:
            server.shutdown()
            thread.join()


async def test_spans_reach_a_collector_by_the_standard_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as (url, received):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        with tracing("orders-cdc", {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_SERVICE_NAME": "shop"}) as wrap:
            assert wrap is not None
            await wrap("lake", RecordingSink()).write([change(1)])
        (request,) = received
        (told,) = request.resource_spans
        assert {a.key: a.value.string_value for a in told.resource.attributes}["service.name"] == "shop"
        assert [span.name for scope in told.scope_spans for span in scope.spans] == ["dsqlcdc.deliver"]

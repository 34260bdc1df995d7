"""Metrics: one table of what is measured, computed when somebody scrapes and never before."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from dsqlcdc.contract import Outcome
from dsqlcdc.core.lag import BOUNDS, Spread
from dsqlcdc.core.ports import GAP_KINDS
from dsqlcdc.core.telemetry import Kept, ShardStatus, Status
from dsqlcdc.sources.counts import Counts
from dsqlcdc.streams.observed import CODES as REASONS

if TYPE_CHECKING:
    from dsqlcdc.streams.watch import View

__all__ = ["METRICS", "Metric", "Metrics", "describe"]

STATES = ("starting", "running", "draining", "done", "stopped")
"""A pipeline's states."""
READING = ("waiting", "remembering", "reading", "tip", "paused", "ended")
"""A shard's states, as the source reads it."""
CIRCUITS = ("closed", "half_open", "open")
"""A circuit breaker's states."""
STATUSES = ("UNKNOWN", "CREATING", "ACTIVE", "IMPAIRED", "FAILED", "DELETING", "GONE")
"""A CDC stream's statuses, as the watch over it sees them."""
CODES = 30
"""A sink may make up codes of its own: so many get a series each, in the order they appeared; those after them are counted as "other"."""

Samples = Iterable[tuple[tuple[str, ...], float]]
Spreads = Iterable[tuple[tuple[str, ...], Spread]]


class Metric(msgspec.Struct, frozen=True):
    """One row of the table. The labels come in the order in which `of_status`, `of_source` or `of_watch` gives their values, after the
    common ones.

    `of_status` is asked for each pipeline (common labels: pipeline, sink), with the time in seconds since the epoch; `of_source` once, of
    what the process read of the stream; `of_watch` once, of the CDC stream, `of_kept` once, of what the stores hold (common label:
    pipeline). A metric has one of them; a histogram has `of_spread`, asked like `of_status`.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    meaning: str
    own: tuple[str, ...] = ()
    of_status: Callable[[Status, float], Samples] | None = None
    of_source: Callable[[Counts], Samples] | None = None
    of_watch: Callable[[View, float], Samples] | None = None
    of_kept: Callable[[Kept], Samples] | None = None
    of_spread: Callable[[Status], Spreads] | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        if self.of_source is not None:
            return self.own
        whole = self.of_watch is not None or self.of_kept is not None
        return ("pipeline", *self.own) if whole else ("pipeline", "sink", *self.own)


def _one(value: float) -> Samples:
    return (((), value),)


def _age(now: float, since: float) -> Samples:
    """Clocks differ: an age is never below 0, and unknown where nothing has happened yet."""
    return (((), max(0.0, now - since)),) if since else ()


def _coded(counts: Mapping[str, int]) -> Samples:
    rest = 0
    for place, (code, count) in enumerate(counts.items()):
        if place < CODES:
            yield (code,), count
        else:
            rest += count
    if rest:
        yield ("other",), rest


def _by_shard(value: Callable[[ShardStatus], float]) -> Callable[[Status, float], Samples]:
    """Of every shard that is read or still owes something: reshards leave no series behind."""
    return lambda status, _: (((shard.shard,), value(shard)) for shard in _live(status))


def _live(status: Status) -> Iterator[ShardStatus]:
    return (shard for shard in status.shards if shard.open or not shard.ended)


def _shard_states(counts: Counts) -> Samples:
    if counts.shards:
        for state in READING:
            yield (state,), sum(shard.state == state for shard in counts.shards)


METRICS: Sequence[Metric] = (
    Metric("dsqlcdc_read_total", "counter", "Records read. Always the sum of settled and open.", of_status=lambda s, _: _one(s.read)),
    Metric("dsqlcdc_read_bytes_total", "counter", "Bytes of the records read, as received.", of_status=lambda s, _: _one(s.bytes)),
    Metric(
        "dsqlcdc_settled_total",
        "counter",
        "Records settled, by what became of them.",
        ("outcome",),
        of_status=lambda s, _: (((outcome.value,), s.settled.get(outcome.value, 0)) for outcome in Outcome),
    ),
    Metric("dsqlcdc_open", "gauge", "Records read and not settled yet: what is owed.", of_status=lambda s, _: _one(s.open)),
    Metric(
        "dsqlcdc_in_flight_bytes",
        "gauge",
        "Bytes of changes between intake and settlement. What waits for its other pieces does not count.",
        of_status=lambda s, _: _one(s.in_flight_bytes),
    ),
    Metric(
        "dsqlcdc_held",
        "gauge",
        "Changes held back for order commit: part of what is open.",
        of_status=lambda s, _: _one(s.held),
    ),
    Metric(
        "dsqlcdc_late_total",
        "counter",
        "Changes that came too late for order commit: delivered out of order and marked.",
        of_status=lambda s, _: _one(s.late),
    ),
    Metric("dsqlcdc_batches_total", "counter", "Batches given to the sink.", of_status=lambda s, _: _one(s.batches)),
    Metric(
        "dsqlcdc_retries_total",
        "counter",
        "Things tried again because the other side was unavailable or asked for it, by error code.",
        ("code",),
        of_status=lambda s, _: _coded(s.retries),
    ),
    Metric("dsqlcdc_dead_total", "counter", "Changes declared dead, by reason.", ("code",), of_status=lambda s, _: _coded(s.dead)),
    Metric(
        "dsqlcdc_dead_letters_total",
        "counter",
        "Dead letters written by this run. One that was stored already is not counted again.",
        of_status=lambda s, _: _one(s.letters),
    ),
    Metric(
        "dsqlcdc_remembered_total",
        "counter",
        "Records of earlier runs read again only to be remembered.",
        of_status=lambda s, _: _one(s.remembered),
    ),
    Metric(
        "dsqlcdc_memory_entries",
        "gauge",
        "Settled changes remembered to tell duplicates and stale ones.",
        of_status=lambda s, _: _one(s.memory),
    ),
    Metric("dsqlcdc_commits_total", "counter", "Checkpoints committed.", of_status=lambda s, _: _one(s.commits)),
    Metric(
        "dsqlcdc_commit_age_seconds",
        "gauge",
        "Seconds since the last commit of a checkpoint; before the first one since the run began.",
        of_status=lambda s, now: _age(now, s.committed_at or s.began_at),
    ),
    Metric(
        "dsqlcdc_newest_change_timestamp_seconds",
        "gauge",
        "Commit time in the database of the newest change settled by the sink.",
        of_status=lambda s, _: _one(s.newest_version / 1e9) if s.newest_version else (),
    ),
    Metric(
        "dsqlcdc_lag_seconds",
        "histogram",
        "Seconds that delivered changes took, by leg: commit_to_kinesis, kinesis_to_read, read_to_sink.",
        ("leg",),
        of_spread=lambda s: (((leg,), spread) for leg, spread in s.lag.items()),
    ),
    Metric(
        "dsqlcdc_lag_now_seconds",
        "gauge",
        "The lag at this moment, by leg: of the last batch; what may be unread; how long the oldest change owed has waited for the sink.",
        ("leg",),
        of_status=lambda s, _: (((leg,), spread.now) for leg, spread in s.lag.items()),
    ),
    Metric(
        "dsqlcdc_circuit",
        "gauge",
        "1 for the state of the sink's circuit breaker (closed, half_open, open), 0 for the others; no series where it has none.",
        ("state",),
        of_status=lambda s, _: (((state,), float(s.circuit == state)) for state in CIRCUITS if s.circuit),
    ),
    Metric(
        "dsqlcdc_digest_age_seconds",
        "gauge",
        "Seconds since the period ended of the newest digest that is there; no series where the sink writes none, or none is there yet.",
        of_status=lambda s, now: _age(now, s.digests.at) if s.digests is not None else (),
    ),
    Metric(
        "dsqlcdc_digest_overdue_seconds",
        "gauge",
        "Seconds by which the next digest is overdue, 0 where it is not: by `digest.every`, since the one before or since the run began.",
        of_status=lambda s, now: _one(max(0.0, now - s.digests.due)) if s.digests is not None else (),
    ),
    Metric(
        "dsqlcdc_digest_failures_total",
        "counter",
        "Attempts to write a digest that failed. Each is made again.",
        of_status=lambda s, _: _one(s.digests.failed) if s.digests is not None else (),
    ),
    Metric(
        "dsqlcdc_retention_left_seconds",
        "gauge",
        "Seconds until the oldest change owed is lost, should nothing be delivered until then.",
        of_status=lambda s, _: _one(s.retention_left) if s.retention_left is not None else (),
    ),
    Metric(
        "dsqlcdc_retention_used_ratio",
        "gauge",
        "The part of the stream's retention that has gone by over the oldest change owed. At 1 changes are lost.",
        of_status=lambda s, _: _one(s.retention_used),
    ),
    Metric(
        "dsqlcdc_standstill_alarm",
        "gauge",
        "0, or the part of the retention (0.5, 0.75, 0.9) reached while the sink takes nothing.",
        of_status=lambda s, _: _one(s.alarm),
    ),
    Metric("dsqlcdc_gaps", "gauge", "Gaps (changes that may be lost) found by this run.", of_status=lambda s, _: _one(s.gaps)),
    Metric(
        "dsqlcdc_state",
        "gauge",
        "1 for the state the pipeline is in, 0 for the others.",
        ("state",),
        of_status=lambda s, _: (((state,), float(s.state == state)) for state in STATES),
    ),
    Metric("dsqlcdc_shard_open", "gauge", "Records of the shard that are owed.", ("shard",), of_status=_by_shard(lambda shard: shard.open)),
    Metric(
        "dsqlcdc_shard_behind_seconds",
        "gauge",
        "How far the last read was behind the shard's tip, as the service said.",
        ("shard",),
        of_status=_by_shard(lambda shard: shard.behind_ms / 1000),
    ),
    Metric(
        "dsqlcdc_shard_read_age_seconds",
        "gauge",
        "Seconds since the shard was last read.",
        ("shard",),
        of_status=lambda s, now: (((shard.shard,), age) for shard in _live(s) for _, age in _age(now, shard.read_to)),
    ),
    Metric(
        "dsqlcdc_shard_checkpoint_age_seconds",
        "gauge",
        "How old the shard's checkpoint is: nothing that arrived before it is owed. Where it nears the stream's retention, data is lost.",
        ("shard",),
        of_status=lambda s, now: (((shard.shard,), age) for shard in _live(s) for _, age in _age(now, shard.checkpoint_arrived)),
    ),
    Metric("dsqlcdc_source_reads_total", "counter", "Reads of the stream (GetRecords).", of_source=lambda c: _one(c.reads)),
    Metric(
        "dsqlcdc_source_records_total",
        "counter",
        "Records fetched. All sinks of the process share what is fetched.",
        of_source=lambda c: _one(c.records),
    ),
    Metric("dsqlcdc_source_bytes_total", "counter", "Bytes fetched.", of_source=lambda c: _one(c.bytes)),
    Metric("dsqlcdc_source_throttles_total", "counter", "Reads refused by the service's limits.", of_source=lambda c: _one(c.throttles)),
    Metric(
        "dsqlcdc_source_expired_iterators_total", "counter", "Iterators that had expired when used.", of_source=lambda c: _one(c.expired)
    ),
    Metric(
        "dsqlcdc_source_renewed_iterators_total",
        "counter",
        "Iterators replaced in time.",
        of_source=lambda c: _one(c.renewed),
    ),
    Metric("dsqlcdc_source_reshards_total", "counter", "Shards that ended in a split or merge.", of_source=lambda c: _one(c.reshards)),
    Metric(
        "dsqlcdc_source_dropped_reads_total",
        "counter",
        "Answers given up for want of memory, and read again later.",
        of_source=lambda c: _one(c.dropped),
    ),
    Metric("dsqlcdc_source_listings_total", "counter", "Listings of all shards.", of_source=lambda c: _one(c.listings)),
    Metric("dsqlcdc_source_retries_total", "counter", "Reads tried again, by reason.", ("code",), of_source=lambda c: _coded(c.retries)),
    Metric("dsqlcdc_source_buffered_bytes", "gauge", "Bytes read ahead.", of_source=lambda c: _one(c.buffered_bytes)),
    Metric("dsqlcdc_source_cached_bytes", "gauge", "Bytes kept for other sinks of the process.", of_source=lambda c: _one(c.cached_bytes)),
    Metric(
        "dsqlcdc_source_shards",
        "gauge",
        "Shards by how they are read; paused ones are ahead of the slowest.",
        ("state",),
        of_source=_shard_states,
    ),
    Metric(
        "dsqlcdc_unacknowledged_gaps",
        "gauge",
        "Gaps in the state store that nobody has acknowledged, from this run or an earlier one, by kind.",
        ("kind",),
        of_kept=lambda k: (((kind,), sum(gap.kind == kind for gap in k.owed)) for kind in GAP_KINDS) if k.at else (),
    ),
    Metric(
        "dsqlcdc_fragments_waiting",
        "gauge",
        "Pieces of oversized rows that wait for the others of their row.",
        of_kept=lambda k: _one(k.parts) if k.at else (),
    ),
    Metric(
        "dsqlcdc_fragments_waiting_bytes",
        "gauge",
        "Bytes of the pieces that wait.",
        of_kept=lambda k: _one(k.part_bytes) if k.at else (),
    ),
    Metric(
        "dsqlcdc_stream_status",
        "gauge",
        "1 for the status of the CDC stream, 0 for the others; GONE where there is none, UNKNOWN before the first answer.",
        ("status",),
        of_watch=lambda v, _: (((status,), float((v.health.status or "UNKNOWN") == status)) for status in STATUSES),
    ),
    Metric(
        "dsqlcdc_stream_reason",
        "gauge",
        "1 for the statusReason of the CDC stream, 0 for the others.",
        ("reason",),
        of_watch=lambda v, _: (((code,), float(v.health.code == code)) for code in REASONS),
    ),
    Metric(
        "dsqlcdc_stream_since_active_seconds",
        "gauge",
        "Seconds since the CDC stream was last seen ACTIVE.",
        of_watch=lambda v, now: _age(now, max(v.health.active_at, v.health.healthy_at)),
    ),
    Metric(
        "dsqlcdc_stream_answer_age_seconds",
        "gauge",
        "Seconds since the service last said how the CDC stream is.",
        of_watch=lambda v, now: _age(now, v.health.answered_at),
    ),
    Metric(
        "dsqlcdc_stream_kept_seconds",
        "gauge",
        "Seconds until the oldest change that an IMPAIRED CDC stream holds back is lost.",
        of_watch=lambda v, now: _one(v.health.kept_until - now) if v.health.kept_until else (),
    ),
    Metric(
        "dsqlcdc_stream_behind_seconds",
        "gauge",
        "Seconds that the CDC stream is behind the database, by the records that are read or by CloudWatch; not there while neither tells.",
        of_watch=lambda v, _: _one(v.health.lag) if v.health.lag is not None else (),
    ),
    Metric(
        "dsqlcdc_stream_remedies_total",
        "counter",
        "Remedies tried on the CDC stream, by kind and result.",
        ("kind", "result"),
        of_watch=lambda v, _: ((key, count) for key, count in v.tried.items()),
    ),
    Metric(
        "dsqlcdc_stream_gaps",
        "gauge",
        "Unacknowledged gaps that replaced CDC streams left, from this run or an earlier one.",
        of_watch=lambda v, _: _one(v.gaps),
    ),
)
"""Every metric. The documentation, the exposition and the tests are made from it."""


class Metrics(Collector):
    """Register it in a CollectorRegistry. `statuses`, `source`, `watch` (of the CDC stream) and `kept` (what the stores hold) are asked at each
    scrape; `clock`: seconds since the epoch."""

    def __init__(
        self,
        statuses: Callable[[], Sequence[Status]],
        source: Callable[[], Counts] | None = None,
        clock: Callable[[], float] = time.time,
        watch: Callable[[], View] | None = None,
        kept: Callable[[], Kept] | None = None,
    ) -> None:
        self._statuses, self._source, self._clock, self._watch, self._kept = statuses, source, clock, watch, kept

    def collect(self) -> Iterator[Family]:
        """One family a metric, each once, whatever the number of pipelines."""
        statuses, now = self._statuses(), self._clock()
        counts = self._source() if self._source is not None else None
        view = self._watch() if self._watch is not None else None
        kept = self._kept() if self._kept is not None else None
        for metric in METRICS:
            if metric.of_spread is not None:
                yield _histogram(metric, statuses)
                continue
            family = (CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily)(
                metric.name, metric.meaning, labels=metric.labels
            )
            if metric.of_status is not None:
                for status in statuses:
                    for labels, value in metric.of_status(status, now):
                        family.add_metric((status.pipeline, status.sink, *labels), value)
            elif metric.of_source is not None and counts is not None:
                for labels, value in metric.of_source(counts):
                    family.add_metric(labels, value)
            elif metric.of_watch is not None and view is not None:
                for labels, value in metric.of_watch(view, now):
                    family.add_metric((view.pipeline, *labels), value)
            elif metric.of_kept is not None and kept is not None:
                for labels, value in metric.of_kept(kept):
                    family.add_metric((kept.pipeline, *labels), value)
            yield family

    def describe(self) -> Iterable[Family]:
        """Nothing is computed for registering it."""
        return ()


def _histogram(metric: Metric, statuses: Sequence[Status]) -> Family:
    family = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    assert metric.of_spread is not None
    for status in statuses:
        for labels, spread in metric.of_spread(status):
            totals = accumulate(spread.counts)
            bounds = [*map(str, BOUNDS), "+Inf"]
            family.add_metric((status.pipeline, status.sink, *labels), list(zip(bounds, totals, strict=True)), spread.sum)
    return family


def describe() -> list[tuple[str, str, tuple[str, ...], str]]:
    """(name, type, labels, meaning) of every metric, for documentation."""
    return [(metric.name, metric.type, metric.labels, metric.meaning) for metric in METRICS]

"""Metrics: what is exposed is the table, and it says what the ledger says."""

from __future__ import annotations

import re

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from dsqlcdc.contract import Outcome
from dsqlcdc.core.lag import BOUNDS, LEGS
from dsqlcdc.core.ports import GAP_KINDS
from dsqlcdc.core.telemetry import Kept, Status
from dsqlcdc.prometheus import CIRCUITS, CODES, METRICS, READING, STATES, STATUSES, Metrics, describe
from dsqlcdc.sources.counts import Counts, ShardCounts
from dsqlcdc.streams.watch import View

from .samples import NOW, SETTLED, kept, shard, status, view

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def counts() -> Counts:
    shards = tuple(ShardCounts(f"shardId-{n}", state, "4966", 0, NOW, NOW, 5) for n, state in enumerate(("tip", "tip", "paused")))
    return Counts(40, 110, 48_000, 3, 1, 9, 2, 0, 4, {"throttled": 3}, 1024, 2048, shards)


def text(statuses: list[Status], source: Counts | None = None, watch: View | None = None, held: Kept | None = None) -> str:
    registry = CollectorRegistry()
    asked = (lambda: source) if source else None, lambda: NOW, (lambda: watch) if watch else None, (lambda: held) if held else None
    registry.register(Metrics(lambda: statuses, *asked))
    return generate_latest(registry).decode()


def series(statuses: list[Status], source: Counts | None = None, watch: View | None = None, held: Kept | None = None) -> Series:
    found: Series = {}
    for family in parse(text(statuses, source, watch, held)):
        for sample in family.samples:
            name = sample.name, tuple(sorted(sample.labels.items()))
            assert name not in found, f"{name} twice"
            found[name] = sample.value
    return found


def test_every_metric_of_the_table_is_exposed_with_its_type_labels_and_meaning() -> None:
    families = {family.name: family for family in parse(text([status()], counts(), view(), kept()))}
    for name, type_, labels, meaning in describe():
        family = families.pop(name.removesuffix("_total") if type_ == "counter" else name)
        assert (family.type, family.documentation) == (type_, meaning)
        assert family.samples, name
        for sample in family.samples:
            assert sample.name.removeprefix(name) in (("_bucket", "_count", "_sum") if type_ == "histogram" else ("",))
            assert set(sample.labels) - {"le"} == set(labels)
    assert not families, "something is exposed that the table does not name"


def test_names_follow_the_conventions() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"dsqlcdc_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.type == "counter")
        assert [metric.of_status, metric.of_source, metric.of_watch, metric.of_kept, metric.of_spread].count(None) == 4
        assert metric.meaning.endswith(".")
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_read_is_the_sum_of_settled_and_open() -> None:
    found = series([status()])
    common = ("pipeline", "orders-cdc"), ("sink", "lake")
    settled = {o: found["dsqlcdc_settled_total", (("outcome", o.value), *common)] for o in Outcome}
    assert settled == {o: SETTLED[o.value] for o in Outcome}
    assert found["dsqlcdc_read_total", common] == sum(settled.values()) + found["dsqlcdc_open", common]


def test_an_outcome_that_has_not_happened_is_a_zero() -> None:
    found = series([status(settled={})])
    assert [value for (name, _), value in found.items() if name == "dsqlcdc_settled_total"] == [0.0] * len(Outcome)


def test_ages_are_taken_at_the_scrape_never_negative_and_absent_where_unknown() -> None:
    late = status(committed_at=NOW + 5, shards=(shard(checkpoint_arrived=0.0),))
    for name, expected in (("dsqlcdc_commit_age_seconds", [1.5]), ("dsqlcdc_shard_checkpoint_age_seconds", [30.0])):
        assert [value for (found, _), value in series([status()]).items() if found == name] == expected
    assert [value for (found, _), value in series([late]).items() if found == "dsqlcdc_commit_age_seconds"] == [0.0]
    assert not [name for name, _ in series([late]) if name == "dsqlcdc_shard_checkpoint_age_seconds"]
    assert not [name for name, _ in series([status(committed_at=0.0)]) if name == "dsqlcdc_commit_age_seconds"]


def test_a_pipeline_that_never_committed_has_the_age_of_its_run() -> None:
    for committed, expected in ((0.0, 900.0), (NOW - 3.0, 3.0)):
        found = series([status(committed_at=committed, began_at=NOW - 900.0)])
        assert [value for (name, _), value in found.items() if name == "dsqlcdc_commit_age_seconds"] == [expected]


def test_shards_that_ended_and_owe_nothing_leave_no_series_behind() -> None:
    ended = [shard(f"shardId-{n}", ended=True, open=int(n == 3)) for n in range(1000)]
    found = {dict(labels)["shard"] for name, labels in series([status(shards=(*ended, shard()))]) if name == "dsqlcdc_shard_open"}
    assert found == {"shardId-3", "shardId-000000000000"}


def test_codes_that_a_sink_makes_up_are_bounded_and_their_sum_is_kept() -> None:
    many = {f"code{n}": 2 for n in range(500)}
    found = {labels: value for (name, labels), value in series([status(dead=many)]).items() if name == "dsqlcdc_dead_total"}
    assert len(found) == CODES + 1
    assert sum(found.values()) == 1000


def test_a_label_with_anything_in_it_is_escaped() -> None:
    odd = 'a"b\\c\nd'
    found = [dict(labels) for name, labels in series([status(retries={odd: 1})]) if name == "dsqlcdc_retries_total"]
    assert [labels["code"] for labels in found] == [odd]


@pytest.mark.parametrize("state", STATES)
def test_exactly_one_state_holds(state: str) -> None:
    found = {dict(labels)["state"]: v for (name, labels), v in series([status(state=state)]).items() if name == "dsqlcdc_state"}
    assert found == {other: float(other == state) for other in STATES}


def test_two_sinks_share_families_and_have_series_of_their_own() -> None:
    found = series([status("lake", open=1), status("hook", open=2)])
    opens = {dict(labels)["sink"]: value for (name, labels), value in found.items() if name == "dsqlcdc_open"}
    assert opens == {"lake": 1, "hook": 2}


def test_the_source_is_counted_once_for_the_process() -> None:
    found = series([status("lake"), status("hook")], counts())
    assert found["dsqlcdc_source_throttles_total", ()] == 3
    assert found["dsqlcdc_source_reshards_total", ()] == 2
    states = {dict(labels)["state"]: value for (name, labels), value in found.items() if name == "dsqlcdc_source_shards"}
    assert states == {**dict.fromkeys(READING, 0), "tip": 2, "paused": 1}


def test_openmetrics_takes_it_too() -> None:
    registry = CollectorRegistry()
    registry.register(Metrics(lambda: [status()], counts, lambda: NOW))
    families = list(parse_openmetrics(generate_openmetrics(registry).decode()))
    assert len(families) == len(METRICS)


def test_nothing_is_asked_before_a_scrape() -> None:
    asked: list[str] = []

    def statuses() -> list[Status]:
        asked.append("statuses")
        return []

    registry = CollectorRegistry()
    registry.register(Metrics(statuses, clock=lambda: NOW))
    assert asked == []
    generate_latest(registry)
    assert asked == ["statuses"]


def test_the_cdc_stream_shows_its_one_status_and_reason_and_how_long_it_is_kept() -> None:
    found = series([], watch=view())
    common = ("pipeline", "orders-cdc")
    statuses = {dict(labels)["status"]: value for (name, labels), value in found.items() if name == "dsqlcdc_stream_status"}
    assert statuses == {**dict.fromkeys(STATUSES, 0.0), "IMPAIRED": 1.0}
    reasons = {dict(labels)["reason"] for (name, labels), value in found.items() if name == "dsqlcdc_stream_reason" and value}
    assert reasons == {"ROLE_ACCESS_DENIED"}
    assert found["dsqlcdc_stream_since_active_seconds", (common,)] == 3660.0
    assert found["dsqlcdc_stream_kept_seconds", (common,)] == 7 * 86_400.0 - 3600.0
    assert found["dsqlcdc_stream_behind_seconds", (common,)] == 3600.0
    assert found["dsqlcdc_stream_remedies_total", (("kind", "trust"), common, ("result", "done"))] == 1.0
    assert found["dsqlcdc_stream_gaps", (common,)] == 2.0


def test_a_cdc_stream_that_nobody_has_seen_yet_is_unknown_and_has_no_ages() -> None:
    found = series([], watch=view(status="", reason=None, healthy_at=0.0, broken_since=0.0, answered_at=0.0, lag=None))
    assert found["dsqlcdc_stream_status", (("pipeline", "orders-cdc"), ("status", "UNKNOWN"))] == 1.0
    assert not {name for name, _ in found if name.endswith("_seconds")}


def test_without_a_watch_the_cdc_stream_has_no_series() -> None:
    assert not {name for name, _ in series([status()]) if name.startswith("dsqlcdc_stream_")}


def test_the_lag_is_a_histogram_of_changes_by_leg_and_a_gauge() -> None:
    found = series([status()])
    common = ("pipeline", "orders-cdc"), ("sink", "lake")
    for leg in LEGS:
        steps = [found["dsqlcdc_lag_seconds_bucket", (("le", str(bound)), ("leg", leg), *common)] for bound in (*BOUNDS, "+Inf")]
        assert steps == sorted(steps)
        assert steps[-1] == found["dsqlcdc_lag_seconds_count", (("leg", leg), *common)] == sum(status().lag[leg].counts)
        assert found["dsqlcdc_lag_seconds_sum", (("leg", leg), *common)] == 250.5
        assert found["dsqlcdc_lag_now_seconds", (("leg", leg), *common)] == 2.0


@pytest.mark.parametrize("state", CIRCUITS)
def test_a_circuit_breaker_has_one_state_and_a_sink_without_one_no_series(state: str) -> None:
    found = {dict(labels)["state"]: v for (name, labels), v in series([status(circuit=state)]).items() if name == "dsqlcdc_circuit"}
    assert found == {other: float(other == state) for other in CIRCUITS}
    assert not [name for name, _ in series([status(circuit="")]) if name == "dsqlcdc_circuit"]


def test_only_gaps_that_nobody_has_acknowledged_count_and_before_the_store_answered_nothing_does() -> None:
    found = series([], held=kept())
    gaps = {dict(labels)["kind"]: value for (name, labels), value in found.items() if name == "dsqlcdc_unacknowledged_gaps"}
    assert gaps == {**dict.fromkeys(GAP_KINDS, 0.0), "trimmed": 1.0}
    assert found["dsqlcdc_fragments_waiting", (("pipeline", "orders-cdc"),)] == 3.0
    assert found["dsqlcdc_fragments_waiting_bytes", (("pipeline", "orders-cdc"),)] == 9_000_000.0
    assert series([], held=Kept("orders-cdc")) == {}


def test_no_label_has_values_without_bound() -> None:
    """But for shards, which the stream has, and codes, of which only some get a series."""
    bounded = {"pipeline", "sink", "shard", "code", "outcome", "state", "status", "reason", "kind", "result", "leg"}
    assert {label for metric in METRICS for label in metric.labels} <= bounded

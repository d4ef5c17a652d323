# Shapes: B rows.

import math
import socket
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest
from fake_engine import make_plan
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cascade_serve.core.request import ExitReason, Reply
from cascade_serve.counts import MOST_NOTES
from cascade_serve.errors import ConfigError
from cascade_serve.metrics import UNKNOWN, CascadeObserver, Metrics, MetricsServer

PLAN = make_plan({})


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def observer(metrics: Metrics) -> CascadeObserver:
    return metrics.observer("pets", PLAN)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def make_reply(stages: list[int], reasons: list[ExitReason], flops: list[int], policy: str = "default") -> Reply:
    rows = len(stages)
    return Reply(
        probabilities_BK=np.ones((rows, 1), dtype=np.float32),
        label_B=np.zeros(rows, dtype=np.int64),
        confidence_B=np.ones(rows, dtype=np.float32),
        exit_stage_B=np.array(stages),
        exit_reason_B=np.array(reasons, dtype=np.uint8),
        flops_B=np.array(flops),
        policy=policy,
        certified=False,
    )


def test_a_reply_counts_exits_durations_and_flops(metrics: Metrics, observer: CascadeObserver) -> None:
    reply = make_reply(
        [0, 0, 2, 1],
        [ExitReason.CONFIDENT, ExitReason.CONFIDENT, ExitReason.LAST_STAGE, ExitReason.DEADLINE],
        [1_000_000, 1_000_000, 21_000_000, 5_000_000],
    )
    observer.request_answered(reply, [0.0001, 0.0002, 0.03, 100.0])
    exits = {
        (stage, reason.name): value(metrics, "cascade_exits_total", cascade="pets", stage=stage, reason=reason.name)
        for stage in ("0", "1", "2")
        for reason in ExitReason
    }
    assert {key: count for key, count in exits.items() if count} == {
        ("0", "CONFIDENT"): 2,
        ("1", "DEADLINE"): 1,
        ("2", "LAST_STAGE"): 1,
    }
    assert value(metrics, "cascade_flops_total", cascade="pets", policy="default") == 28_000_000
    baseline = "cascade_baseline_flops_total"
    assert value(metrics, baseline, cascade="pets", policy="default", baseline="last_member") == 64_000_000
    assert value(metrics, baseline, cascade="pets", policy="default", baseline="committee") == 84_000_000
    duration = "cascade_row_duration_seconds"
    assert value(metrics, f"{duration}_bucket", cascade="pets", stage="0", le="0.0001") == 1
    assert value(metrics, f"{duration}_bucket", cascade="pets", stage="0", le="0.00025") == 2
    assert value(metrics, f"{duration}_sum", cascade="pets", stage="0") == pytest.approx(0.0003)
    assert value(metrics, f"{duration}_bucket", cascade="pets", stage="1", le="60.0") == 0
    assert value(metrics, f"{duration}_bucket", cascade="pets", stage="1", le="+Inf") == 1
    assert value(metrics, f"{duration}_count", cascade="pets", stage="2") == 1


def test_a_value_on_an_edge_is_in_the_bucket_below_it(metrics: Metrics, observer: CascadeObserver) -> None:
    observer.rows_gated([0, 0], [0.5, 1.0])
    labels = {"cascade": "pets", "stage": "0"}
    assert value(metrics, "cascade_confidence_bucket", **labels, le="0.5") == 1
    assert value(metrics, "cascade_confidence_bucket", **labels, le="0.999") == 1
    assert value(metrics, "cascade_confidence_bucket", **labels, le="1.0") == 2


def test_rows_without_an_answer_leave_the_confidences_whole(metrics: Metrics, observer: CascadeObserver) -> None:
    observer.rows_gated([0, 1, 1], [math.nan, 0.25, math.nan])
    assert value(metrics, "cascade_confidence_count", cascade="pets", stage="0") == 0
    assert value(metrics, "cascade_confidence_count", cascade="pets", stage="1") == 1
    assert value(metrics, "cascade_confidence_sum", cascade="pets", stage="1") == 0.25


def test_a_batch_counts_queue_compute_and_size(metrics: Metrics, observer: CascadeObserver) -> None:
    observer.batch_ran("medium", [0.001, 0.002, 0.5], 0.04)
    labels = {"cascade": "pets", "member": "medium"}
    assert value(metrics, "cascade_queue_seconds_count", **labels) == 3
    assert value(metrics, "cascade_queue_seconds_sum", **labels) == pytest.approx(0.503)
    assert value(metrics, "cascade_compute_seconds_count", **labels) == 1
    assert value(metrics, "cascade_compute_seconds_sum", **labels) == pytest.approx(0.04)
    assert value(metrics, "cascade_batch_rows_bucket", **labels, le="2.0") == 0
    assert value(metrics, "cascade_batch_rows_bucket", **labels, le="4.0") == 1
    assert value(metrics, "cascade_batch_rows_sum", **labels) == 3


def test_requests_rejections_rows_and_version(metrics: Metrics) -> None:
    metrics.request_finished("pets", "fast", "OK", 0.004)
    metrics.request_finished(UNKNOWN, UNKNOWN, "NOT_FOUND", 0.0001)
    metrics.request_refused("pets", "full")
    metrics.request_refused("pets", "full")
    metrics.set_version("pets", 7)
    metrics.track_rows("pets", {"waiting": lambda: 3, "running": lambda: 5})
    labels = {"cascade": "pets", "policy": "fast", "outcome": "OK"}
    assert value(metrics, "cascade_request_duration_seconds_bucket", **labels, le="0.0025") == 0
    assert value(metrics, "cascade_request_duration_seconds_bucket", **labels, le="0.005") == 1
    assert value(metrics, "cascade_rejections_total", cascade="pets", reason="full") == 2
    assert value(metrics, "cascade_bundle_version", cascade="pets") == 7
    assert value(metrics, "cascade_rows_in_flight", cascade="pets", state="waiting") == 3
    assert value(metrics, "cascade_rows_in_flight", cascade="pets", state="running") == 5


def test_versions_of_a_cascade_share_their_counts(metrics: Metrics, observer: CascadeObserver) -> None:
    observer.request_answered(make_reply([0], [ExitReason.CONFIDENT], [1]), [0.001])
    successor = metrics.observer("pets", PLAN)
    successor.request_answered(make_reply([0], [ExitReason.CONFIDENT], [2]), [0.001])
    # The old version still drains.
    observer.request_answered(make_reply([1], [ExitReason.CONFIDENT], [4], "fast"), [0.001])
    assert value(metrics, "cascade_flops_total", cascade="pets", policy="default") == 3
    assert value(metrics, "cascade_flops_total", cascade="pets", policy="fast") == 4
    assert value(metrics, "cascade_exits_total", cascade="pets", stage="0", reason="CONFIDENT") == 2


def test_an_unloaded_cascade_leaves_no_series(metrics: Metrics, observer: CascadeObserver) -> None:
    metrics.observer("birds", PLAN)
    metrics.request_finished("pets", "fast", "OK", 1)
    metrics.request_refused("pets", "late")
    metrics.remove("pets")
    metrics.remove("pets")
    # A straggler of the old engine disturbs nobody.
    observer.batch_ran("small", [0.1], 0.1)
    text = generate_latest(metrics.registry).decode()
    assert 'cascade="pets"' not in text
    assert 'cascade="birds"' in text


def test_the_exposition_parses_and_every_family_is_declared_once(metrics: Metrics, observer: CascadeObserver) -> None:
    metrics.request_finished("pets", "default", "OK", 0.1)
    families = list(text_string_to_metric_families(generate_latest(metrics.registry).decode()))
    names = [family.name for family in families]
    assert sorted(names) == sorted(set(names))
    assert set(names) == {
        "cascade_request_duration_seconds",
        "cascade_row_duration_seconds",
        "cascade_queue_seconds",
        "cascade_compute_seconds",
        "cascade_batch_rows",
        "cascade_confidence",
        "cascade_exits",
        "cascade_flops",
        "cascade_baseline_flops",
        "cascade_rejections",
        "cascade_rows_in_flight",
        "cascade_bundle_version",
    }
    assert all(family.documentation for family in families)


def test_two_metrics_cannot_share_a_registry(metrics: Metrics) -> None:
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Metrics(metrics.registry)


@pytest.fixture
def scrape_server(metrics: Metrics) -> Iterator[MetricsServer]:
    with MetricsServer(metrics.registry) as server:
        yield server


def test_a_scrape_gives_the_metrics(metrics: Metrics, scrape_server: MetricsServer) -> None:
    metrics.set_version("pets", 3)
    with urllib.request.urlopen(f"http://127.0.0.1:{scrape_server.port}/metrics", timeout=10) as response:
        assert 'cascade_bundle_version{cascade="pets"} 3.0' in response.read().decode()


def test_a_taken_port_is_a_config_error(metrics: Metrics, scrape_server: MetricsServer) -> None:
    with pytest.raises(ConfigError, match=rf"metrics address 127.0.0.1:{scrape_server.port}: .*in use"):
        MetricsServer(metrics.registry, port=scrape_server.port)


def test_a_closed_server_frees_its_port_and_closes_twice(metrics: Metrics) -> None:
    server = MetricsServer(metrics.registry)
    server.close()
    server.close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0


def test_what_is_told_is_counted_without_a_scrape_before_it_piles_up() -> None:
    metrics = Metrics(CollectorRegistry())
    for _ in range(1000):
        metrics.request_finished("digits", "default", "OK", 0.01)
        assert len(metrics._notes._notes) < MOST_NOTES
    (family,) = [each for each in metrics.collect() if each.name == "cascade_request_duration_seconds"]
    (count,) = [sample.value for sample in family.samples if sample.name.endswith("_count")]
    assert count == 1000

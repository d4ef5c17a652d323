"""Sums over processes, worked out by hand."""

import pytest
from fake_engine import make_plan
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cascade_serve.metrics import UNKNOWN, Metrics
from cascade_serve.processes.sums import (
    Ledger,
    Scrape,
    Series,
    SummedMetrics,
    pack_scrape,
    read_scrape,
    scrape_ledger,
    tally_ledger,
    unpack_scrape,
)
from cascade_serve.rpc.tally import Tally


def exits(cascade: str = "pets") -> Series:
    return Series("cascade_exits", "cascade_exits_total", (("cascade", cascade), ("stage", "0")))


def version(cascade: str = "pets") -> Series:
    return Series("cascade_bundle_version", "cascade_bundle_version", (("cascade", cascade),))


def waiting() -> Series:
    return Series("cascade_rows_in_flight", "cascade_rows_in_flight", (("cascade", "pets"), ("state", "waiting")))


@pytest.fixture
def ledger() -> Ledger[Series, float]:
    made = scrape_ledger()
    for process in (0, 1):
        made.begin(process)
    return made


def test_counters_and_rows_add_up_and_the_lowest_version_is_shown(ledger: Ledger[Series, float]) -> None:
    ledger.update(0, {exits(): 5, version(): 2, waiting(): 3})
    ledger.update(1, {exits(): 7, version(): 1, waiting(): 4})
    assert ledger.total() == {exits(): 12, version(): 1, waiting(): 7}


def test_later_counts_of_a_process_take_the_place_of_its_earlier_ones(ledger: Ledger[Series, float]) -> None:
    ledger.update(0, {exits(): 5})
    ledger.update(0, {exits(): 6})
    assert ledger.total() == {exits(): 6}


def test_a_restart_does_not_let_a_sum_fall_and_its_gauges_go(ledger: Ledger[Series, float]) -> None:
    ledger.update(0, {exits(): 5, version(): 1, waiting(): 3})
    ledger.update(1, {exits(): 7, version(): 2, waiting(): 4})
    ledger.end(0)
    assert ledger.total() == {exits(): 12, version(): 2, waiting(): 4}
    ledger.begin(2)
    ledger.update(2, {exits(): 1, version(): 2, waiting(): 0})
    assert ledger.total() == {exits(): 13, version(): 2, waiting(): 4}
    ledger.end(2)
    ledger.end(1)
    assert ledger.total() == {exits(): 13}


def test_counts_that_come_after_the_end_count_once(ledger: Ledger[Series, float]) -> None:
    ledger.update(0, {exits(): 5})
    ledger.end(0)
    ledger.update(0, {exits(): 6})
    ledger.end(0)
    assert ledger.total() == {exits(): 5}


def test_what_was_unloaded_is_forgotten_for_good(ledger: Ledger[Series, float]) -> None:
    unknown = exits(UNKNOWN)
    ledger.update(0, {exits(): 5, exits("gone"): 9, unknown: 2})
    ledger.end(0)
    # Nobody is there who could know better.
    assert ledger.total() == {exits(): 5, exits("gone"): 9, unknown: 2}
    ledger.update(1, {exits(): 1})
    assert ledger.total() == {exits(): 6, unknown: 2}
    ledger.update(1, {exits(): 1, exits("gone"): 1})
    assert ledger.total() == {exits(): 6, exits("gone"): 1, unknown: 2}


def test_tallies_add_up_field_by_field_and_keep_the_latest_time() -> None:
    ledger: Ledger[str, Tally] = tally_ledger()
    for process in range(3):
        ledger.begin(process)
    ledger.update(0, {"pets:1": {"last_inference": 90, "inference_count": 5, "batch.4.count": 1}})
    ledger.update(1, {"pets:1": {"last_inference": 70, "inference_count": 2, "batch.8.count": 3}})
    ledger.update(2, {"pets:2": {"last_inference": 99, "inference_count": 1}})
    ledger.end(0)
    pets = {"last_inference": 90, "inference_count": 7, "batch.4.count": 1, "batch.8.count": 3}
    assert ledger.total() == {"pets:1": pets, "pets:2": {"last_inference": 99, "inference_count": 1}}
    ledger.end(1)
    # Version 1 has gone with its last process.
    assert ledger.total() == {"pets:2": {"last_inference": 99, "inference_count": 1}}


def counted(seconds: float, times: int) -> Scrape:
    metrics = Metrics(CollectorRegistry())
    metrics.observer("pets", make_plan({}))
    metrics.set_version("pets", 3)
    for _ in range(times):
        metrics.request_finished("pets", "default", "OK", seconds)
    return unpack_scrape(pack_scrape(read_scrape(metrics.collect())))


def test_a_scrape_of_all_reads_like_one_of_a_single_process(ledger: Ledger[Series, float]) -> None:
    ledger.update(0, counted(0.002, times=3))
    ledger.update(1, counted(0.2, times=4))
    registry = CollectorRegistry()
    registry.register(SummedMetrics(ledger.total, lambda: (2, 1)))
    families = {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}
    labels = {"cascade": "pets", "policy": "default", "outcome": "OK"}
    duration = "cascade_request_duration_seconds"
    buckets = {
        float(sample.labels["le"]): sample.value
        for sample in families[duration].samples
        if sample.name == f"{duration}_bucket"
    }
    assert (buckets[0.001], buckets[0.0025], buckets[0.1], buckets[0.25], buckets[float("inf")]) == (0, 3, 3, 7, 7)
    assert list(buckets) == sorted(buckets)
    assert registry.get_sample_value(f"{duration}_count", labels) == 7
    assert registry.get_sample_value(f"{duration}_sum", labels) == pytest.approx(3 * 0.002 + 4 * 0.2)
    assert registry.get_sample_value("cascade_bundle_version", {"cascade": "pets"}) == 3
    assert registry.get_sample_value("cascade_processes") == 2
    assert registry.get_sample_value("cascade_process_restarts_total") == 1
    single = CollectorRegistry()
    Metrics(single)
    own = {"cascade_processes", "cascade_process_restarts"}
    assert set(families) - own == {family.name for family in single.collect()}

"""Arrivals: bounds in time and count, warm-up, and the Poisson process."""

import threading

import numpy as np
import pytest

from cascade_serve.load.arrivals import Arrival, Arrivals, MonotonicClock


def test_a_closed_loop_is_due_at_once_until_its_end() -> None:
    arrivals = Arrivals(start_s=0.0, measure_from_s=1.0, end_s=3.0)
    assert arrivals.take(0.0) == Arrival(0, None, is_measured=False)
    assert arrivals.take(0.999) == Arrival(1, None, is_measured=False)
    assert arrivals.take(1.0) == Arrival(2, None, is_measured=True)
    assert arrivals.take(2.999) == Arrival(3, None, is_measured=True)
    assert arrivals.take(3.0) is None


def test_count_bounds_the_measured_requests_alone() -> None:
    arrivals = Arrivals(start_s=0.0, measure_from_s=1.0, count=2)
    taken = [arrivals.take(now_s) for now_s in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)]
    assert [arrival and arrival.is_measured for arrival in taken] == [False, False, True, True, None, None]


def test_poisson_gaps_have_the_rates_mean_and_spread() -> None:
    arrivals = Arrivals(start_s=10.0, measure_from_s=10.0, count=20_000, rate=50.0, seed=3)
    due_s = [arrival.due_s for _ in range(20_000) if (arrival := arrivals.take(0.0)) and arrival.due_s is not None]
    gaps_s = np.diff([10.0, *due_s])
    assert len(gaps_s) == 20_000
    assert gaps_s.min() >= 0
    # Exponential gaps: the standard deviation equals the mean. Four standard errors of the mean are 2.8 %.
    assert gaps_s.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps_s.std() == pytest.approx(1 / 50, rel=0.05)


def test_an_open_loop_ends_by_the_due_time() -> None:
    arrivals = Arrivals(start_s=0.0, measure_from_s=0.0, end_s=5.0, rate=1000.0, seed=0)
    taken = 0
    while arrivals.take(0.0) is not None:
        taken += 1
    assert taken == pytest.approx(5000, rel=0.06)
    assert arrivals.unsent == 0


def test_a_backlog_is_counted_not_sent_after_the_end() -> None:
    late, punctual = (Arrivals(start_s=0.0, measure_from_s=1.0, end_s=5.0, rate=1000.0, seed=2) for _ in range(2))
    measured = 0
    while (arrival := punctual.take(0.0)) is not None:
        measured += arrival.is_measured
    for _ in range(100):
        late.take(0.0)
    assert late.take(5.0) is None
    assert late.take(6.0) is None
    # The hundred that were taken fell into the warm-up, so all measured requests are unsent.
    assert late.unsent == measured == pytest.approx(4000, rel=0.08)


def test_a_backlog_ends_with_the_count() -> None:
    arrivals = Arrivals(start_s=0.0, measure_from_s=0.0, end_s=5.0, count=7, rate=1000.0)
    arrivals.take(0.0)
    assert arrivals.take(5.0) is None
    assert arrivals.unsent == 6


def test_the_same_seed_gives_the_same_arrivals() -> None:
    first, second = (Arrivals(start_s=0.0, measure_from_s=0.0, rate=9.0, seed=7) for _ in range(2))
    assert [first.take(0.0) for _ in range(50)] == [second.take(0.0) for _ in range(50)]


def test_every_request_goes_to_one_caller() -> None:
    arrivals = Arrivals(start_s=0.0, measure_from_s=0.0, count=4000)
    taken: list[list[int]] = [[] for _ in range(4)]

    def take(mine: list[int]) -> None:
        while (arrival := arrivals.take(0.0)) is not None:
            mine.append(arrival.index)

    threads = [threading.Thread(target=take, args=(mine,)) for mine in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(index for mine in taken for index in mine) == list(range(4000))


def test_the_clock_returns_at_once_when_late_or_stopped() -> None:
    clock, stop = MonotonicClock(), threading.Event()
    clock.wait_until(clock.now() - 100, stop)
    stop.set()
    clock.wait_until(clock.now() + 100, stop)
    assert clock.now() <= clock.now()

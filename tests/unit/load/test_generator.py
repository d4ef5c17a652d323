"""The load generator, on a clock that only the calls move, so that every figure is worked out by hand."""

import math
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from cascade_serve.load.generator import Caller, LoadConfig, run_load
from cascade_serve.load.report import Answer
from cascade_serve.rpc.remote import RemoteInvalidError, RemoteOverloadedError


@dataclass
class _ManualClock:
    time_s: float = 0.0

    def now(self) -> float:
        return self.time_s

    def wait_until(self, time_s: float, stop: threading.Event) -> None:
        assert not stop.is_set()
        self.time_s = max(self.time_s, time_s)


@dataclass
class _Caller:
    """Takes ``service_s`` a call; stages and FLOPs are those of one image a request."""

    clock: _ManualClock
    service_s: float = 0.1
    prepare_s: float = 0.0
    fail_at: tuple[int, ...] = ()
    sent: list[int] = field(default_factory=list)

    def prepare(self, index: int) -> int:
        self.clock.time_s += self.prepare_s
        return index

    def send(self, payload: int) -> Answer:
        self.sent.append(payload)
        self.clock.time_s += self.service_s
        if payload in self.fail_at:
            raise RemoteOverloadedError("RESOURCE_EXHAUSTED", f"request {payload}: full")
        return Answer(np.array([payload % 3]), np.array([100 * (payload % 3 + 1)]))


def test_closed_loop_by_hand() -> None:
    clock = _ManualClock()
    caller = _Caller(clock)
    report = run_load([caller], LoadConfig(seconds=None, count=6, warm_up_s=0), clock=clock)
    assert caller.sent == [0, 1, 2, 3, 4, 5]
    assert (report.loop, report.concurrency, report.requests, report.failed, report.images) == ("closed", 1, 6, 0, 6)
    assert report.duration_s == pytest.approx(0.6)
    assert report.requests_per_s == pytest.approx(10)
    assert report.latency_ms.p50 == pytest.approx(100)
    assert report.exits == (2, 2, 2)
    assert (report.mean_flops, report.max_flops) == (200, 300)
    assert report.max_send_delay_ms == 0


def test_preparing_a_request_is_not_timed() -> None:
    clock = _ManualClock()
    report = run_load([_Caller(clock, prepare_s=5.0)], LoadConfig(seconds=None, count=3, warm_up_s=0), clock=clock)
    assert report.latency_ms.max == pytest.approx(100)


def test_warm_up_is_sent_but_not_reported() -> None:
    clock = _ManualClock()
    caller = _Caller(clock, service_s=0.25)
    report = run_load([caller], LoadConfig(seconds=1.0, warm_up_s=1.0), clock=clock)
    assert len(caller.sent) == 8
    assert report.requests == 4
    assert report.duration_s == pytest.approx(1.0)


def test_open_loop_counts_the_wait_for_a_slow_server() -> None:
    """A server of 0.1 s under 100 requests a second: request i, due near i/100, is answered at (i + 1)/10."""
    clock = _ManualClock()
    report = run_load([_Caller(clock)], LoadConfig(seconds=None, count=50, warm_up_s=0, rate=100.0), clock=clock)
    # A generator that timed from the send would report 100 ms for all.
    assert report.latency_ms.p50 > 1500
    assert report.latency_ms.max == pytest.approx(5000 - 500, rel=0.1)
    assert report.max_send_delay_ms == pytest.approx(report.latency_ms.max - 100)
    assert report.requests_per_s == pytest.approx(10, rel=0.02)


def test_open_loop_of_a_fast_server_keeps_the_rate() -> None:
    clock = _ManualClock()
    report = run_load(
        [_Caller(clock, service_s=1e-6)], LoadConfig(seconds=100.0, warm_up_s=10.0, rate=40.0, seed=1), clock=clock
    )
    assert report.loop == "open"
    assert report.requests == pytest.approx(4000, rel=0.06)
    assert report.latency_ms.p50 == pytest.approx(1e-3)


def test_failures_are_counted_by_kind_and_left_out_of_the_latency() -> None:
    clock = _ManualClock()
    report = run_load([_Caller(clock, fail_at=(1, 3))], LoadConfig(seconds=None, count=5, warm_up_s=0), clock=clock)
    assert (report.requests, report.failed, report.images) == (3, 2, 3)
    assert report.errors == {"RESOURCE_EXHAUSTED": 2}
    assert report.first_error == "RESOURCE_EXHAUSTED: request 1: full"


def test_a_run_without_an_answer_has_no_latency() -> None:
    clock = _ManualClock()
    report = run_load([_Caller(clock, fail_at=(0,))], LoadConfig(seconds=None, count=1, warm_up_s=0), clock=clock)
    assert report.requests == 0
    assert report.exits == ()
    assert math.isnan(report.latency_ms.p99)
    assert math.isnan(report.mean_flops)
    assert report.images_per_s == 0


class _Broken:
    def prepare(self, index: int) -> int:
        return index

    def send(self, payload: int) -> Answer:
        raise ZeroDivisionError(f"call {payload}")


class _Endless:
    """Its calls succeed for ever."""

    def prepare(self, index: int) -> int:
        return index

    def send(self, payload: int) -> Answer:
        del payload
        return Answer(np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64))


def test_an_unforeseen_error_stops_the_other_callers_and_surfaces() -> None:
    callers: list[Caller[int]] = [_Endless(), _Broken(), _Endless()]
    with pytest.raises(ZeroDivisionError, match="call"):
        run_load(callers, LoadConfig(seconds=3600, warm_up_s=0))


def test_concurrent_callers_share_the_count() -> None:
    done: list[int] = []
    report = run_load(
        [_Endless() for _ in range(8)], LoadConfig(seconds=None, count=2000, warm_up_s=0), progress=done.append
    )
    assert report.requests == report.images == 2000
    assert report.exits == (2000,)
    assert done[-1] == 2000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seconds": None}, "seconds, count: got neither"),
        ({"seconds": 0}, "seconds: got 0; must be above 0"),
        ({"seconds": math.inf}, "seconds: got inf"),
        ({"count": 0}, "count: got 0; must be at least 1"),
        ({"warm_up_s": -1}, "warm_up_s: got -1"),
        ({"rate": 0}, "rate: got 0; must be above 0"),
        ({"rate": math.nan}, "rate: got nan"),
    ],
)
def test_bounds_are_checked(arguments: dict[str, float | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoadConfig(**arguments)  # type: ignore[arg-type]


def test_no_caller_is_refused() -> None:
    with pytest.raises(ValueError, match="callers: got none"):
        run_load([], LoadConfig())


def test_invalid_requests_do_not_end_the_run() -> None:
    class Refused(_Endless):
        def send(self, payload: int) -> Answer:
            raise RemoteInvalidError("INVALID_ARGUMENT", f"request {payload}")

    report = run_load([Refused()], LoadConfig(seconds=None, count=3, warm_up_s=0))
    assert report.errors == {"INVALID_ARGUMENT": 3}

"""The load generator: callers on threads, closed loop or open, each timed from when its request was due.

Threads over blocking stubs cost the client no more CPU a call than grpc's asyncio API, and less on large requests,
which matters when client and server share the cores.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from cascade_serve.load.arrivals import Arrival, Arrivals, Clock, MonotonicClock
from cascade_serve.load.report import Answer, LoadReport, Tally, make_report
from cascade_serve.rpc.remote import RemoteError

_PROGRESS_INTERVAL_S = 0.1

PayloadT = TypeVar("PayloadT")
Progress = Callable[[int], None]
"""Called a few times a second with the requests done so far, warm-up included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadConfig:
    """How long and how fast to send.

    Attributes:
        seconds: length of the measured part; None has no bound in time.
        count: measured requests in all; None has no bound. One of the two bounds must be given.
        warm_up_s: seconds before the measured part; what was due in them is sent, but not reported.
        rate: requests a second, as a Poisson process (open loop); None sends the next as soon as the last was answered.
        seed: of the Poisson process.
    """

    seconds: float | None = 10.0
    count: int | None = None
    warm_up_s: float = 1.0
    rate: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seconds is None and self.count is None:
            raise ValueError("seconds, count: got neither; one must bound the run")
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise ValueError(f"seconds: got {self.seconds}; must be above 0 and finite")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count: got {self.count}; must be at least 1")
        if not 0 <= self.warm_up_s < float("inf"):
            raise ValueError(f"warm_up_s: got {self.warm_up_s}; must be at least 0 and finite")
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise ValueError(f"rate: got {self.rate}; must be above 0 and finite")


class Caller(Protocol[PayloadT]):
    """One of the concurrent callers; used by one thread."""

    def prepare(self, index: int) -> PayloadT:
        """Make request number ``index`` ready. Not timed."""
        ...

    def send(self, payload: PayloadT) -> Answer:
        """Send it and wait for the answer. Timed.

        Raises:
            RemoteError: it failed; counted, and the run goes on.
        """
        ...


def run_load(
    callers: Sequence[Caller[PayloadT]],
    config: LoadConfig,
    *,
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> LoadReport:
    """Send requests until the bound is reached, and wait for the last answers.

    In a closed loop a slow server slows its callers down, so the latency says nothing of what users who come
    regardless would see; an open loop times each request from when it was due, even if no caller was free to send it.

    Args:
        callers: each runs on a thread of its own; their number is the concurrency, and in an open loop the bound on
            requests in flight.
        config: how long and how fast.
        clock: the machine's, unless given.
        progress: told the requests done so far.

    Raises:
        ValueError: there is no caller.
        Exception: whatever a caller raises other than RemoteError; the others are stopped first.
    """
    if not callers:
        raise ValueError("callers: got none; must be at least one")
    clock = clock or MonotonicClock()
    start_s = clock.now()
    measure_from_s = start_s + config.warm_up_s
    arrivals = Arrivals(
        start_s=start_s,
        measure_from_s=measure_from_s,
        end_s=None if config.seconds is None else measure_from_s + config.seconds,
        count=config.count,
        rate=config.rate,
        seed=config.seed,
    )
    tallies = [Tally() for _ in callers]
    _run_threads(callers, tallies, arrivals, clock, progress)
    loop: Literal["closed", "open"] = "closed" if config.rate is None else "open"
    return make_report(tallies, loop=loop, start_s=measure_from_s, unsent=arrivals.unsent)


def _run_threads(
    callers: Sequence[Caller[PayloadT]],
    tallies: Sequence[Tally],
    arrivals: Arrivals,
    clock: Clock,
    progress: Progress | None,
) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(len(callers), thread_name_prefix="caller") as pool:
        futures = [
            pool.submit(_call_until_over, caller, tally, arrivals, clock, stop)
            for caller, tally in zip(callers, tallies, strict=True)
        ]
        # Set on every way out: after Ctrl-C, too, the callers must end before the pool can.
        try:
            _watch(futures, tallies, progress)
        finally:
            stop.set()


def _watch(futures: Sequence[Future[None]], tallies: Sequence[Tally], progress: Progress | None) -> None:
    pending: set[Future[None]] = set(futures)
    while pending:
        done, pending = wait(pending, timeout=_PROGRESS_INTERVAL_S, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        if progress is not None:
            progress(sum(tally.done for tally in tallies))


def _call_until_over(
    caller: Caller[PayloadT], tally: Tally, arrivals: Arrivals, clock: Clock, stop: threading.Event
) -> None:
    while not stop.is_set() and (arrival := arrivals.take(clock.now())) is not None:
        payload = caller.prepare(arrival.index)
        if arrival.due_s is not None:
            clock.wait_until(arrival.due_s, stop)
            if stop.is_set():
                return
        _call_once(caller, payload, arrival, tally, clock)


def _call_once(caller: Caller[PayloadT], payload: PayloadT, arrival: Arrival, tally: Tally, clock: Clock) -> None:
    sent_s = clock.now()
    due_s = sent_s if arrival.due_s is None else arrival.due_s
    try:
        answer, error = caller.send(payload), None
    except RemoteError as failure:
        answer, error = None, failure
    done_s = clock.now()
    tally.done += 1
    if not arrival.is_measured:
        return
    tally.last_done_s = done_s
    if answer is not None:
        tally.add_answer(answer, latency_s=done_s - due_s, send_delay_s=sent_s - due_s)
    elif error is not None:
        tally.add_error(error.code, str(error))

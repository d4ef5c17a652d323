"""What surrounds every inference call: a place among those in flight, its counts, and the drain."""

import asyncio
import threading
import time
from types import TracebackType
from typing import Self

from cascade_serve.core.request import Reply, Request
from cascade_serve.errors import AbandonedError, LateError, OverloadedError, UnavailableError
from cascade_serve.metrics import UNKNOWN, Metrics
from cascade_serve.rpc.ports import Served
from cascade_serve.rpc.status import fate_of
from cascade_serve.rpc.traffic import Traffic


class Desk:
    """Lets inference calls in, up to a number at the same time, and counts how they end.

    Args:
        metrics: counts requests and rejections.
        max_in_flight_requests: calls at the same time; more are refused.
    """

    def __init__(self, metrics: Metrics, max_in_flight_requests: int) -> None:
        self.metrics = metrics
        self.traffic = Traffic()
        self._limit = max_in_flight_requests
        # A bare lock costs a tenth of a condition, which each call would enter twice.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._in_flight = 0
        self._is_draining = False

    @property
    def is_draining(self) -> bool:
        """No call is let in any more."""
        return self._is_draining

    @property
    def in_flight(self) -> int:
        """Calls let in and not yet ended."""
        return self._in_flight

    def visit(self, deadline_s: float | None) -> "Visit":
        """Begin one call; as a context manager it takes a place, frees it and counts the call.

        Args:
            deadline_s: gRPC's, on ``time.monotonic``'s clock; None is no deadline.
        """
        return Visit(self, deadline_s)

    def drain(self, timeout_s: float) -> bool:
        """Let nobody in any more, and wait for those inside; tell whether all left in time."""
        with self._changed:
            self._is_draining = True
            return self._changed.wait_for(lambda: self._in_flight == 0, timeout_s)

    def take(self) -> None:
        """Take a place.

        Raises:
            UnavailableError: the server is draining.
            OverloadedError: all places are taken.
        """
        with self._lock:
            if self._is_draining:
                raise UnavailableError("the server is draining; another replica may answer")
            if self._in_flight >= self._limit:
                raise OverloadedError(f"{self._limit} requests are in flight, the most that this server takes")
            self._in_flight += 1

    def free(self) -> None:
        """Give a place back."""
        with self._lock:
            self._in_flight -= 1
            if self._is_draining and self._in_flight == 0:
                self._changed.notify_all()


class Visit:
    """One inference call, from arrival to answer or error: counted once, whichever way it ends."""

    def __init__(self, desk: Desk, deadline_s: float | None) -> None:
        self._desk = desk
        self._start_s = time.perf_counter()
        self._served: Served | None = None
        self._policy: str | None = None
        self._deadline_s = deadline_s
        self._reply: Reply | None = None

    def found(self, served: Served) -> None:
        """Its cascade is held."""
        self._served = served

    def accepted(self, request: Request) -> None:
        """Its rows are in the engine."""
        self._policy = request.terms.policy
        self._deadline_s = request.deadline_s

    def answered(self, reply: Reply) -> None:
        """Its reply is there."""
        self._reply = reply

    def __enter__(self) -> Self:
        try:
            self._desk.take()
        except (OverloadedError, UnavailableError) as error:
            self._count(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._desk.free()
        self._count(self._meaning(error))

    def _meaning(self, error: BaseException | None) -> BaseException | None:
        """Say why gRPC broke a call off, if it did: its caller has gone, or its deadline has come."""
        if not isinstance(error, asyncio.CancelledError):
            return error
        if self._deadline_s is not None and time.monotonic() >= self._deadline_s:
            return LateError("the deadline passed before the answer was there")
        return AbandonedError("the caller cancelled the request or has gone")

    def _count(self, error: BaseException | None) -> None:
        seconds = time.perf_counter() - self._start_s
        cascade = UNKNOWN if self._served is None else self._served.name
        fate = None if error is None else fate_of(error)
        outcome = "OK" if fate is None else fate.code.name
        self._desk.metrics.request_finished(cascade, self._policy or UNKNOWN, outcome, seconds)
        if fate is not None and self._policy is None:
            self._desk.metrics.request_refused(cascade, fate.reason)
        if self._served is None:
            return
        if error is None and self._reply is not None:
            self._desk.traffic.answered(self._served, len(self._reply.label_B), seconds)
        else:
            self._desk.traffic.failed(self._served, seconds)

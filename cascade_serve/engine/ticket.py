"""One request on its way through the engine: its slots, how many of its rows are still open, and how it ended."""

import threading
from typing import Protocol

import numpy as np

from cascade_serve.core.request import OnDeadline, Reply, Request
from cascade_serve.core.route import Route
from cascade_serve.errors import RequestError

REPLY_MARGIN_S = 0.002
"""Time kept back before a deadline, to write an early answer and send it."""


class _Engine(Protocol):
    def work_until_closed(self, ticket: "RowTicket") -> None: ...
    def collect(self, ticket: "RowTicket") -> Reply: ...
    def release(self, ticket: "RowTicket") -> None: ...
    def abandon(self, ticket: "RowTicket") -> None: ...


class RowTicket:
    """The rows of one request. All but :meth:`result` and :meth:`cancel` is for the engine, under its lock.

    Attributes:
        request: as admitted.
        route: of its rows.
        slots: in the order of the rows.
        admitted_s: on the engine's clock.
        sequence: of its admission; smaller is older.
        open_rows: rows without an answer yet.
        is_closed: ended, well or badly.
        is_called: its thread was woken to take a batch.
        error: how it ended, when badly.
    """

    def __init__(self, engine: _Engine, *, request: Request, route: Route, slots: list[int], admitted_s: float) -> None:
        self._engine = engine
        self._alarm: threading.Lock | None = None
        self.request = request
        self.route = route
        self.slots = slots
        self.admitted_s = admitted_s
        self.sequence = 0
        self.open_rows = len(slots)
        self.is_closed = False
        self.is_called = False
        self.error: RequestError | None = None

    def result(self) -> Reply:
        """Work until this request is answered; see :class:`~cascade_serve.engine.protocol.Ticket`."""
        try:
            self._engine.work_until_closed(self)
            if self.error is not None:
                raise self.error
            return self._engine.collect(self)
        finally:
            self._engine.release(self)

    def cancel(self) -> None:
        """Take the request's rows out; see :class:`~cascade_serve.engine.protocol.Ticket`."""
        self._engine.abandon(self)

    @property
    def answers_early(self) -> bool:
        """The caller would rather have an early answer than none."""
        return self.request.terms.on_deadline is OnDeadline.ANSWER

    @property
    def due_s(self) -> float:
        """When the request must be answered or failed, on the engine's clock; infinity when it has no deadline."""
        if self.request.deadline_s is None:
            return np.inf
        return self.request.deadline_s - (REPLY_MARGIN_S if self.answers_early else 0.0)

    @property
    def is_asleep(self) -> bool:
        """Its thread sleeps, or is about to."""
        return self._alarm is not None

    @property
    def slept_to_the_end(self) -> bool:
        """It was closed while its thread slept, and nobody called that thread to a batch meanwhile."""
        return self.is_closed and not self.is_called

    def set_alarm(self) -> threading.Lock:
        """Make ready to sleep: give the lock that :meth:`wake` opens, to be acquired without the engine's lock."""
        self.is_called = False
        self._alarm = threading.Lock()
        self._alarm.acquire()
        return self._alarm

    def call(self) -> None:
        """Wake the thread that sleeps, to take a batch."""
        self.is_called = True
        self.wake()

    def wake(self) -> None:
        """Wake the thread that sleeps, or is about to, if there is one."""
        if self._alarm is not None:
            self._alarm.release()
            self._alarm = None

    def close(self, error: RequestError | None = None) -> None:
        """End the request and wake its thread."""
        self.is_closed = True
        self.error = error
        self.wake()

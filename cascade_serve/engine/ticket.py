"""One request on its way through the engine: its slots, how many of its rows are still open, and how it ended."""

import math
import threading
from collections.abc import Callable
from typing import Protocol

from cascade_serve.core.request import OnDeadline, Reply, Request
from cascade_serve.core.route import Route
from cascade_serve.engine.slab import RowAnswers
from cascade_serve.errors import RequestError

REPLY_MARGIN_S = 0.002
"""Time kept back before a deadline, to write an early answer and send it."""


class _Engine(Protocol):
    def answer(self, ticket: "RowTicket") -> Reply: ...
    def release(self, ticket: "RowTicket") -> None: ...
    def abandon(self, ticket: "RowTicket") -> None: ...


class RowTicket:
    """The rows of one request. All but :meth:`result`, :meth:`cancel` and :meth:`sleep` is for the engine's lock.

    Attributes:
        request: as admitted.
        route: of its rows.
        slots: in the order of the rows.
        admitted_s: on the engine's clock.
        sequence: of its admission; smaller is older.
        open_rows: rows without an answer yet.
        is_closed: ended, well or badly.
        answers: what it was closed with, where the engine reads it out before it wakes the thread.
        error: how it ended, when badly.
    """

    def __init__(self, engine: _Engine, *, request: Request, route: Route, slots: list[int], admitted_s: float) -> None:
        self._engine = engine
        # Sleeps and wakes for a tenth of what an event costs.
        self._alarm = threading.Lock()
        self._alarm.acquire()
        self.request = request
        self.route = route
        self.slots = slots
        self.admitted_s = admitted_s
        self.sequence = 0
        self.open_rows = len(slots)
        self.is_closed = False
        self.answers: RowAnswers | None = None
        self.error: RequestError | None = None

    def result(self) -> Reply:
        """Work or wait until this request is answered; see :class:`~cascade_serve.engine.protocol.Ticket`."""
        try:
            return self._engine.answer(self)
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
            return math.inf
        return self.request.deadline_s - (REPLY_MARGIN_S if self.answers_early else 0.0)

    def sleep(self, wake_s: float, clock: Callable[[], float]) -> None:
        """Wait, without any lock, until the request is closed, or a time on the clock comes; infinity is never."""
        timeout_s = -1 if wake_s == math.inf else max(0.0, min(wake_s - clock(), threading.TIMEOUT_MAX))
        self._alarm.acquire(timeout=timeout_s)

    def close(self, end: RowAnswers | RequestError | None = None) -> None:
        """End the request, once, and wake its thread.

        Args:
            end: its answers, or why it failed; None leaves the answers where the engine keeps them.
        """
        if isinstance(end, RequestError):
            self.error = end
        else:
            self.answers = end
        self.is_closed = True
        self._alarm.release()

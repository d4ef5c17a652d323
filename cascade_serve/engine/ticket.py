"""One request on its way through the engine: its slots, how many of its rows are still open, and how it ended."""

import math
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Protocol

from cascade_serve.core.arrays import FloatArray
from cascade_serve.core.request import ExitReason, OnDeadline, Reply, Request
from cascade_serve.core.route import Route
from cascade_serve.engine.protocol import Caller, Ticket
from cascade_serve.errors import RequestError

REPLY_MARGIN_S = 0.002
"""Time kept back before a deadline, to write an early answer and send it."""


class _Engine(Protocol):
    def answer(self, ticket: "RowTicket") -> Reply: ...
    def expire(self, ticket: "RowTicket") -> None: ...
    def release(self, ticket: "RowTicket") -> None: ...
    def abandon(self, ticket: "RowTicket") -> None: ...


class RowAnswer(NamedTuple):
    """What one row leaves with, as in :class:`~cascade_serve.core.request.Reply`.

    Attributes:
        probabilities_1K: float32 [1, K], a part of its batch's.
        label: the class.
        confidence: float32's value.
        exit_stage: 0-based, in its route.
        exit_reason: why there.
        flops: spent on it.
        exited_s: when its last stage had ended, on the engine's clock.
    """

    probabilities_1K: FloatArray
    label: int
    confidence: float
    exit_stage: int
    exit_reason: ExitReason
    flops: int
    exited_s: float


class Notices:
    """Tickets that were closed under an engine's lock, of which their callers hear without it, all at once."""

    def __init__(self) -> None:
        self._closed: deque[RowTicket] = deque()

    def __len__(self) -> int:
        """Count the tickets of which nobody has heard yet."""
        return len(self._closed)

    def add(self, ticket: "RowTicket") -> None:
        """Note that a ticket was closed; from any thread, holding any lock."""
        self._closed.append(ticket)

    def tell(self) -> None:
        """Tell the callers; from any thread that holds no lock."""
        of_caller: dict[Caller, list[Ticket]] = {}
        while self._closed:
            # Another thread may be quicker.
            with suppress(IndexError):
                ticket = self._closed.popleft()
                if ticket.caller is not None:
                    of_caller.setdefault(ticket.caller, []).append(ticket)
        for caller, tickets in of_caller.items():
            caller.hear(tickets)


class RowTicket:
    """The rows of one request; see :class:`~cascade_serve.engine.protocol.Ticket`.

    All but :meth:`result`, :meth:`expire`, :meth:`cancel` and :meth:`sleep` is for the engine's lock.

    Attributes:
        caller: hears that it is closed; None where none was named.
        request: as admitted.
        route: of its rows.
        slots: in the order of the rows.
        admitted_s: on the engine's clock.
        answers_early: the caller would rather have an early answer than none.
        due_s: when the request must be answered or failed, on the engine's clock; infinity when it has no deadline.
        sequence: of its admission; smaller is older.
        open_rows: rows without an answer yet.
        is_closed: ended, well or badly.
        answers: of its rows, where the engine keeps them here.
        error: how it ended, when badly.
    """

    def __init__(
        self,
        engine: _Engine,
        *,
        request: Request,
        route: Route,
        slots: list[int],
        admitted_s: float,
        notices: Notices | None = None,
        caller: Caller | None = None,
    ) -> None:
        self._engine = engine
        self._notices = notices
        self.caller = caller
        # Sleeps and wakes for a tenth of what an event costs.
        self._alarm = threading.Lock()
        self._alarm.acquire()
        self.request = request
        self.route = route
        self.slots = slots
        self.admitted_s = admitted_s
        self.answers_early = request.terms.on_deadline is OnDeadline.ANSWER
        margin_s = REPLY_MARGIN_S if self.answers_early else 0.0
        self.due_s = math.inf if request.deadline_s is None else request.deadline_s - margin_s
        self.sequence = 0
        self.open_rows = len(slots)
        self.is_closed = False
        self.answers: list[RowAnswer | None] = [None] * len(slots)
        self.error: RequestError | None = None

    def result(self) -> Reply:
        """Wait until this request is answered; see :class:`~cascade_serve.engine.protocol.Ticket`."""
        try:
            return self._engine.answer(self)
        finally:
            self._engine.release(self)

    def expire(self) -> None:
        """End the request if its time is up; see :class:`~cascade_serve.engine.protocol.Ticket`."""
        self._engine.expire(self)

    def cancel(self) -> None:
        """Take the request's rows out; see :class:`~cascade_serve.engine.protocol.Ticket`."""
        self._engine.abandon(self)

    def sleep(self, wake_s: float, clock: Callable[[], float]) -> None:
        """Wait, without any lock, until the request is closed, or a time on the clock comes; infinity is never."""
        timeout_s = -1 if wake_s == math.inf else max(0.0, min(wake_s - clock(), threading.TIMEOUT_MAX))
        self._alarm.acquire(timeout=timeout_s)

    def close(self, error: RequestError | None = None) -> None:
        """End the request, once, and wake the thread that waits for it; an error says why it failed."""
        self.error = error
        self.is_closed = True
        self._alarm.release()
        if self._notices is not None:
            self._notices.add(self)

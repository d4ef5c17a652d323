"""The event loop on which this process answers calls, and how other threads reach it."""

import asyncio
import sys
import threading
from collections.abc import Coroutine, Sequence
from functools import cache
from typing import Any, TypeVar

from cascade_serve.engine.protocol import Ticket
from cascade_serve.threads import show_name

_Result = TypeVar("_Result")


class ServiceLoop:
    """An event loop on a thread of its own, for as long as the process lives."""

    def __init__(self) -> None:
        self.loop = _new_event_loop()
        threading.Thread(target=self._run, name="rpc", daemon=True).start()

    def _run(self) -> None:
        show_name("rpc")
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine there and wait for its result; from any other thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()


def _new_event_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    # A call goes round the loop some eighteen times.
    import uvloop

    return uvloop.new_event_loop()


def service_loop() -> ServiceLoop:
    """Give the process's one: gRPC has one poller a process, whose events two loops would take from each other."""
    with _FIRST_TIME:
        return _the_loop()


# A cache alone would let two threads make one each.
_FIRST_TIME = threading.Lock()


@cache
def _the_loop() -> ServiceLoop:
    return ServiceLoop()


class Bell:
    """Wakes coroutines whose tickets have been closed: the loop once for all that a batch has closed together.

    Args:
        loop: of the coroutines.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # Only the loop's thread looks at it.
        self._awaited: dict[Ticket, asyncio.Future[None]] = {}

    def hear(self, tickets: Sequence[Ticket]) -> None:
        """Wake who waits for these tickets; from any thread."""
        self._loop.call_soon_threadsafe(self._wake, tickets)

    def _wake(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            future = self._awaited.pop(ticket, None)
            if future is not None and not future.done():
                future.set_result(None)

    def closing(self, ticket: Ticket) -> "asyncio.Future[None]":
        """Give what ends when a ticket, which need not be open, is closed; on the loop, once a ticket."""
        future: asyncio.Future[None] = self._loop.create_future()
        if ticket.is_closed:
            # Whoever hears of it from now on finds nobody who waits.
            future.set_result(None)
        else:
            self._awaited[ticket] = future
        return future

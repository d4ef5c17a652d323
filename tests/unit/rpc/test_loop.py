"""How coroutines hear from other threads that their tickets are closed."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import cast

import pytest

from cascade_serve.engine.protocol import Ticket
from cascade_serve.rpc import loop
from cascade_serve.rpc.loop import Bell, service_loop

WAIT_S = 60


@dataclass(eq=False)
class FakeTicket:
    is_closed: bool = False


def make_tickets(count: int) -> list[Ticket]:
    return [cast("Ticket", FakeTicket()) for _ in range(count)]


def close(bell: Bell, tickets: list[Ticket]) -> None:
    """What an engine does, on a thread of its own."""

    def end() -> None:
        for ticket in tickets:
            cast("FakeTicket", ticket).is_closed = True
        bell.hear(tickets)

    thread = threading.Thread(target=end)
    thread.start()
    thread.join(WAIT_S)


def test_all_whose_tickets_are_closed_wake_and_nobody_else() -> None:
    async def story() -> None:
        bell = Bell(asyncio.get_running_loop())
        tickets = make_tickets(3)
        futures = [bell.closing(ticket) for ticket in tickets]
        close(bell, tickets[:2])
        await asyncio.wait_for(asyncio.gather(*futures[:2]), WAIT_S)
        assert not futures[2].done()

    asyncio.run(story())


def test_a_ticket_that_is_closed_already_is_not_waited_for() -> None:
    async def story() -> None:
        bell = Bell(asyncio.get_running_loop())
        tickets = make_tickets(1)
        close(bell, tickets)
        await asyncio.wait_for(bell.closing(tickets[0]), WAIT_S)
        await asyncio.sleep(0)
        # Heard of without anybody waiting: nothing is kept.
        assert not bell._awaited

    asyncio.run(story())


def test_who_has_given_up_is_left_alone() -> None:
    async def story() -> None:
        bell = Bell(asyncio.get_running_loop())
        tickets = make_tickets(2)
        gone, staying = (bell.closing(ticket) for ticket in tickets)
        gone.cancel()
        close(bell, tickets)
        await asyncio.wait_for(staying, WAIT_S)
        assert not bell._awaited

    asyncio.run(story())


def test_threads_that_ask_for_the_first_time_together_get_one_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_slowly() -> object:
        time.sleep(0.05)
        return object()

    monkeypatch.setattr(loop, "_the_loop", cache(make_slowly))
    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(lambda _: loop.service_loop(), range(4)))) == 1


def test_the_service_loop_is_one_and_answers_other_threads() -> None:
    async def where() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert service_loop() is service_loop()
    assert service_loop().run(where()) is service_loop().loop

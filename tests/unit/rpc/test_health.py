"""The health service on a loop of its own: what checks and watches are told, and when."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NoReturn

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from cascade_serve.rpc.health import NOT_SERVING, SERVING, HealthServicer

WAIT_S = 60

Story = Callable[[HealthServicer, dict[str, bool]], Awaitable[None]]


def tell(story: Story) -> None:
    """Run a story about a server that serves at first."""

    async def run() -> None:
        state = {"": True}
        health = HealthServicer(lambda: state, asyncio.get_running_loop())
        await asyncio.wait_for(story(health, state), WAIT_S)

    asyncio.run(run())


def watched(health: HealthServicer) -> AsyncIterator[HealthCheckResponse]:
    return health.Watch(HealthCheckRequest(), None)  # type: ignore[arg-type]


async def news(stream: AsyncIterator[HealthCheckResponse]) -> "HealthCheckResponse.ServingStatus.ValueType":
    return (await anext(stream)).status


async def is_over(stream: AsyncIterator[HealthCheckResponse]) -> bool:
    return await anext(stream, None) is None


def test_a_watch_is_told_of_changes_alone() -> None:
    async def story(health: HealthServicer, state: dict[str, bool]) -> None:
        stream = watched(health)
        assert await news(stream) == SERVING
        waiting = asyncio.create_task(news(stream))
        health.refresh()
        await asyncio.sleep(0.01)
        assert not waiting.done()
        state[""] = False
        health.refresh()
        assert await waiting == NOT_SERVING

    tell(story)


def test_a_change_on_another_thread_is_told() -> None:
    async def story(health: HealthServicer, state: dict[str, bool]) -> None:
        stream = watched(health)
        assert await news(stream) == SERVING
        waiting = asyncio.create_task(news(stream))
        state[""] = False
        await asyncio.to_thread(health.refresh)
        assert await waiting == NOT_SERVING

    tell(story)


def test_nobody_waits_for_a_client_that_has_left() -> None:
    async def story(health: HealthServicer, _state: dict[str, bool]) -> None:
        leaving = watched(health)
        assert await news(leaving) == SERVING
        waiting = asyncio.create_task(news(leaving))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        # Far less than the drain's patience.
        await asyncio.wait_for(health.drain(), 0.5)

    tell(story)


def test_a_drain_tells_the_watches_and_ends_them() -> None:
    async def story(health: HealthServicer, _state: dict[str, bool]) -> None:
        stream = watched(health)
        assert await news(stream) == SERVING
        draining = asyncio.create_task(health.drain())
        assert await news(stream) == NOT_SERVING
        assert await is_over(stream)
        await asyncio.wait_for(draining, 0.5)

    tell(story)


def test_a_watch_that_begins_in_a_drain_is_told_and_ended() -> None:
    async def story(health: HealthServicer, _state: dict[str, bool]) -> None:
        await health.drain()
        stream = watched(health)
        assert await news(stream) == NOT_SERVING
        assert await is_over(stream)

    tell(story)


def test_a_client_that_reads_nothing_holds_up_nobody() -> None:
    async def story(health: HealthServicer, state: dict[str, bool]) -> None:
        deaf, other = watched(health), watched(health)
        assert await news(deaf) == SERVING
        assert await news(other) == SERVING
        state[""] = False
        health.refresh()
        assert await news(other) == NOT_SERVING
        check: HealthCheckResponse = await health.Check(HealthCheckRequest(), None)  # type: ignore[arg-type]
        assert check.status == NOT_SERVING
        draining = asyncio.create_task(health.drain())
        assert await is_over(other)
        await draining
        # What holds by now, and not what was missed.
        assert await news(deaf) == NOT_SERVING
        assert await is_over(deaf)

    tell(story)


class AbortedError(Exception):
    """What gRPC ends an aborted call with."""


class Context:
    """A call that can be aborted."""

    async def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        raise AbortedError(code, details)


def test_an_unknown_service_is_not_found() -> None:
    async def story(health: HealthServicer, _state: dict[str, bool]) -> None:
        with pytest.raises(AbortedError) as caught:
            await health.Check(HealthCheckRequest(service="x" * 999), Context())  # type: ignore[arg-type]
        assert caught.value.args[0] is grpc.StatusCode.NOT_FOUND
        assert len(caught.value.args[1]) < 300

    tell(story)

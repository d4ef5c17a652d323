"""The standard health service (grpc.health.v1): one status for the server, one for each cascade."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import grpc.aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from cascade_serve.errors import NotFoundError
from cascade_serve.rpc.status import answering_soon

_Context = grpc.aio.ServicerContext[HealthCheckRequest, HealthCheckResponse]

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
_UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN

# How long a drain waits for the watches to be told.
_LAST_WORDS_S = 1.0


@dataclass(eq=False, slots=True)
class _Watch:
    """One open stream.

    Attributes:
        news: set whenever the state may have changed.
    """

    news: asyncio.Event = field(default_factory=asyncio.Event)


class HealthServicer:
    """Answers checks from the state as it is, and watches whenever that is refreshed.

    grpc_health's own servicer leaves its watches open when the server drains, which would then wait for them.

    Args:
        read: gives service name → whether it serves; "" is the server as a whole. Must be quick.
        loop: on which calls are answered.
    """

    def __init__(self, read: Callable[[], Mapping[str, bool]], loop: asyncio.AbstractEventLoop) -> None:
        self._read = read
        self._loop = loop
        # Only the loop's thread looks at what follows, but for the flag.
        self._watches: set[_Watch] = set()
        self._all_ended = asyncio.Event()
        self._all_ended.set()
        self._is_draining = False

    @answering_soon
    async def Check(self, request: HealthCheckRequest, context: _Context) -> HealthCheckResponse:
        """Tell one service's status; NOT_FOUND for one that is not known."""
        self._tell()
        status = self._status(request.service)
        if status == _UNKNOWN:
            raise NotFoundError("service", request.service[:200], [*self._read()])
        return HealthCheckResponse(status=status)

    async def Watch(self, request: HealthCheckRequest, context: _Context) -> AsyncIterator[HealthCheckResponse]:
        """Tell one service's status now and at every change, until the drain; of what changes meanwhile the latest."""
        watch = _Watch()
        self._watches.add(watch)
        self._all_ended.clear()
        try:
            told = None
            while True:
                watch.news.clear()
                is_last = self._is_draining
                status = self._status(request.service)
                if status != told:
                    told = status
                    # A client that reads nothing holds up this stream alone.
                    yield HealthCheckResponse(status=status)
                elif is_last:
                    return
                else:
                    await watch.news.wait()
        finally:
            self._watches.discard(watch)
            if not self._watches:
                self._all_ended.set()

    def refresh(self) -> None:
        """Let the watches be told whose service's status has changed, without waiting for that; from any thread."""
        self._loop.call_soon_threadsafe(self._tell)

    async def drain(self) -> None:
        """Report NOT_SERVING from now on, tell the watches so, and end them, unless one of them does not listen."""
        self._is_draining = True
        self._tell()
        # The server's own end will end what is left.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._all_ended.wait(), _LAST_WORDS_S)

    def _tell(self) -> None:
        for watch in self._watches:
            watch.news.set()

    def _status(self, service: str) -> HealthCheckResponse.ServingStatus.ValueType:
        statuses = self._read()
        if service not in statuses:
            return _UNKNOWN
        return SERVING if statuses[service] and not self._is_draining else NOT_SERVING

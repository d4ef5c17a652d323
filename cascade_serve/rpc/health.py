"""The standard health service (grpc.health.v1): one status for the server, one for each cascade."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
_UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN

# None ends the stream.
_Send = Callable[[HealthCheckResponse | None], None]


# How long a drain waits for the watches to be told.
_LAST_WORDS_S = 1.0


@dataclass(eq=False, slots=True)
class _Watch:
    """One open stream.

    Attributes:
        service: that it asks about.
        send: gives it an answer, and returns when that is on its way.
        told: what it was told last.
        is_busy: a thread is telling it.
    """

    service: str
    send: _Send
    told: HealthCheckResponse.ServingStatus.ValueType | None = None
    is_busy: bool = False


class HealthServicer:
    """Answers checks from the state as it is, and watches whenever that is refreshed.

    grpc_health's own servicer leaves its watches open when the server drains, which would then wait for them. And it
    tells one after the other, so that a client that reads nothing holds up all, and whoever has made the change.

    Args:
        read: gives service name → whether it serves; "" is the server as a whole.
    """

    def __init__(self, read: Callable[[], Mapping[str, bool]]) -> None:
        self._read = read
        # Never held while anything is sent.
        self._idle = threading.Condition()
        self._watches: set[_Watch] = set()
        self._is_draining = False

    def Check(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> HealthCheckResponse:
        """Tell one service's status; NOT_FOUND for one that is not known."""
        self.refresh()
        status = self._status(request.service, self._read())
        if status == _UNKNOWN:
            context.abort(grpc.StatusCode.NOT_FOUND, f"service {request.service[:200]!r} not found")
        return HealthCheckResponse(status=status)

    def Watch(self, request: HealthCheckRequest, context: grpc.ServicerContext, send_response_callback: _Send) -> None:
        """Tell one service's status now and at every change, without holding a thread."""
        watch = _Watch(request.service, send_response_callback)
        # NOTE: grpc calls this on the thread that also ends every send, so it may wait for no lock.
        context.add_callback(lambda: self._watches.discard(watch))
        self._watches.add(watch)
        if not context.is_active():
            # It may have ended before it was added.
            self._watches.discard(watch)
        self.refresh()

    # NOTE: grpc looks for this attribute; without it a watch would hold a handler thread as long as it lasts.
    Watch.experimental_non_blocking = True  # type: ignore[attr-defined]

    def refresh(self) -> None:
        """Let the watches be told whose service's status has changed, without waiting for that."""
        with self._idle:
            statuses = self._read()
            for watch in tuple(self._watches):
                # One that is busy looks again before it is done.
                if not watch.is_busy and self._has_news(watch, statuses):
                    watch.is_busy = True
                    threading.Thread(target=self._tell, args=(watch,), name="health", daemon=True).start()

    def drain(self) -> None:
        """Report NOT_SERVING from now on, tell the watches so, and end them, unless one of them does not listen."""
        self._is_draining = True
        self.refresh()
        with self._idle:
            self._idle.wait_for(lambda: not any(watch.is_busy for watch in tuple(self._watches)), _LAST_WORDS_S)

    def _tell(self, watch: _Watch) -> None:
        """Send a watch what is new, each time the state as it is then: an older one is never sent last."""
        while True:
            with self._idle:
                statuses = self._read()
                if not self._has_news(watch, statuses):
                    watch.is_busy = False
                    self._idle.notify_all()
                    return
                status = self._status(watch.service, statuses)
                is_end = status == watch.told
                watch.told = status
            watch.send(None if is_end else HealthCheckResponse(status=status))
            if is_end:
                self._watches.discard(watch)

    def _has_news(self, watch: _Watch, statuses: Mapping[str, bool]) -> bool:
        """Tell whether something is to be sent: another status, or in a drain the end."""
        is_open = watch in self._watches
        return is_open and (self._is_draining or self._status(watch.service, statuses) != watch.told)

    def _status(self, service: str, statuses: Mapping[str, bool]) -> HealthCheckResponse.ServingStatus.ValueType:
        if service not in statuses:
            return _UNKNOWN
        return SERVING if statuses[service] and not self._is_draining else NOT_SERVING

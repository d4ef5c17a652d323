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


@dataclass(eq=False, slots=True)
class _Watch:
    """One open stream.

    Attributes:
        service: that it asks about.
        send: gives it an answer, and returns when that is on its way.
        told: what it was told last.
    """

    service: str
    send: _Send
    told: HealthCheckResponse.ServingStatus.ValueType | None = None


class HealthServicer:
    """Answers checks from the state as it is, and watches whenever that is refreshed.

    grpc_health's own servicer leaves its watches open when the server drains, which would then wait for them.

    Args:
        read: gives service name → whether it serves; "" is the server as a whole.
    """

    def __init__(self, read: Callable[[], Mapping[str, bool]]) -> None:
        self._read = read
        # Held while watches are told, so that a slower thread does not tell an older state last.
        self._telling = threading.Lock()
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
        with self._telling:
            self._watches.add(watch)
            self._tell(watch, self._status(watch.service, self._read()))
            if self._is_draining:
                self._end(watch)
        if not context.is_active():
            # It may have ended before it was added.
            self._watches.discard(watch)

    # NOTE: grpc looks for this attribute; without it a watch would hold a handler thread as long as it lasts.
    Watch.experimental_non_blocking = True  # type: ignore[attr-defined]

    def refresh(self) -> None:
        """Tell the watches whose service's status has changed."""
        with self._telling:
            statuses = self._read()
            for watch in tuple(self._watches):
                self._tell(watch, self._status(watch.service, statuses))

    def drain(self) -> None:
        """Report NOT_SERVING from now on, tell the watches so, and end them."""
        self._is_draining = True
        self.refresh()
        with self._telling:
            for watch in tuple(self._watches):
                self._end(watch)

    def _status(self, service: str, statuses: Mapping[str, bool]) -> HealthCheckResponse.ServingStatus.ValueType:
        if service not in statuses:
            return _UNKNOWN
        return SERVING if statuses[service] and not self._is_draining else NOT_SERVING

    def _tell(self, watch: _Watch, status: HealthCheckResponse.ServingStatus.ValueType) -> None:
        if status != watch.told:
            watch.told = status
            watch.send(HealthCheckResponse(status=status))

    def _end(self, watch: _Watch) -> None:
        self._watches.discard(watch)
        watch.send(None)

"""The standard health service (grpc.health.v1): one status for the server, one for each cascade."""

import threading
from collections.abc import Callable, Mapping

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
_UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN

# None ends the stream.
_Send = Callable[[HealthCheckResponse | None], None]


class HealthServicer:
    """Answers checks from the state as it is, and watches whenever that is refreshed.

    grpc_health's own servicer leaves its watches open when the server drains, which would then wait for them.

    Args:
        read: gives service name → whether it serves; "" is the server as a whole.
    """

    def __init__(self, read: Callable[[], Mapping[str, bool]]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._told: dict[tuple[str, _Send], HealthCheckResponse.ServingStatus.ValueType] = {}
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
        key = (request.service, send_response_callback)
        with self._lock:
            self._tell(key, self._status(request.service, self._read()))
        if self._is_draining or not context.add_callback(lambda: self._forget(key)):
            self._forget(key)

    # NOTE: grpc looks for this attribute; without it a watch would hold a handler thread as long as it lasts.
    Watch.experimental_non_blocking = True  # type: ignore[attr-defined]

    def refresh(self) -> None:
        """Tell the watches whose service's status has changed."""
        with self._lock:
            # Read under the lock: a slower thread must not tell an older state last.
            statuses = self._read()
            for key, told in list(self._told.items()):
                status = self._status(key[0], statuses)
                if status != told:
                    self._tell(key, status)

    def drain(self) -> None:
        """Report NOT_SERVING from now on, tell the watches so, and end them."""
        with self._lock:
            self._is_draining = True
        self.refresh()
        with self._lock:
            keys = list(self._told)
        for key in keys:
            self._forget(key)

    def _status(self, service: str, statuses: Mapping[str, bool]) -> HealthCheckResponse.ServingStatus.ValueType:
        if service not in statuses:
            return _UNKNOWN
        return SERVING if statuses[service] and not self._is_draining else NOT_SERVING

    def _tell(self, key: tuple[str, _Send], status: HealthCheckResponse.ServingStatus.ValueType) -> None:
        self._told[key] = status
        key[1](HealthCheckResponse(status=status))

    def _forget(self, key: tuple[str, _Send]) -> None:
        with self._lock:
            if self._told.pop(key, None) is None:
                return
        key[1](None)

"""The health service beside grpc's own thread, which ends every send and tells of every stream that ended."""

from collections.abc import Callable
from threading import Thread

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from cascade_serve.rpc.health import NOT_SERVING, SERVING, HealthServicer

JOIN_S = 10


class Stream:
    """A watch's stream as the servicer sees it; ``while_sending`` runs on another thread, which a send waits for."""

    def __init__(self) -> None:
        self.sent: list[HealthCheckResponse | None] = []
        self.while_sending: Callable[[], None] = lambda: None
        self._ended: list[Callable[[], None]] = []
        self._is_active = True

    def send(self, response: HealthCheckResponse | None) -> None:
        grpcs = Thread(target=self.while_sending, daemon=True)
        grpcs.start()
        grpcs.join(JOIN_S)
        assert not grpcs.is_alive(), "grpc's thread waits for the send that waits for it"
        self.sent.append(response)

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if self._is_active:
            self._ended.append(callback)
        return self._is_active

    def is_active(self) -> bool:
        return self._is_active

    def leave(self) -> None:
        """The client goes."""
        self._is_active = False
        for callback in self._ended:
            callback()


def watched(health: HealthServicer) -> Stream:
    stream = Stream()
    health.Watch(HealthCheckRequest(), stream, stream.send)  # type: ignore[arg-type]
    return stream


def answers(*statuses: "HealthCheckResponse.ServingStatus.ValueType") -> list[HealthCheckResponse]:
    return [HealthCheckResponse(status=status) for status in statuses]


def test_a_client_may_leave_while_another_is_told() -> None:
    state = {"": True}
    health = HealthServicer(lambda: state)
    staying, leaving = watched(health), watched(health)
    staying.while_sending = leaving.leave
    leaving.while_sending = staying.leave
    state[""] = False
    health.refresh()
    assert staying.sent[0] == leaving.sent[0] == HealthCheckResponse(status=SERVING)
    assert answers(NOT_SERVING)[0] in staying.sent + leaving.sent


def test_nothing_is_sent_to_those_who_left() -> None:
    state = {"": True}
    health = HealthServicer(lambda: state)
    staying, left = watched(health), watched(health)
    left.leave()
    state[""] = False
    health.refresh()
    health.drain()
    assert left.sent == answers(SERVING)
    assert staying.sent == [*answers(SERVING, NOT_SERVING), None]


def test_a_client_that_left_before_its_watch_began_is_forgotten() -> None:
    state = {"": True}
    health = HealthServicer(lambda: state)
    stream = Stream()
    stream.leave()
    health.Watch(HealthCheckRequest(), stream, stream.send)  # type: ignore[arg-type]
    before = list(stream.sent)
    state[""] = False
    health.refresh()
    assert stream.sent == before


def test_a_watch_that_begins_in_a_drain_is_told_and_ended() -> None:
    health = HealthServicer(lambda: {"": True})
    health.drain()
    assert watched(health).sent == [*answers(NOT_SERVING), None]

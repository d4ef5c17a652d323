"""The health service beside grpc's own thread, which ends every send and tells of every stream that ended."""

import time
from collections.abc import Callable
from threading import Event, Thread

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from cascade_serve.rpc.health import NOT_SERVING, SERVING, HealthServicer

JOIN_S = 60


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


def watched(health: HealthServicer, stream: Stream | None = None) -> Stream:
    stream = stream or Stream()
    health.Watch(HealthCheckRequest(), stream, stream.send)  # type: ignore[arg-type]
    return stream


def answers(*statuses: "HealthCheckResponse.ServingStatus.ValueType") -> list[HealthCheckResponse]:
    return [HealthCheckResponse(status=status) for status in statuses]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + JOIN_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def wait_until_told(stream: Stream, expected: list[HealthCheckResponse | None]) -> None:
    wait_for(lambda: len(stream.sent) >= len(expected))
    assert stream.sent == expected


def test_a_client_may_leave_while_another_is_told() -> None:
    state = {"": True}
    health = HealthServicer(lambda: state)
    staying, leaving = watched(health), watched(health)
    for stream in (staying, leaving):
        wait_until_told(stream, [*answers(SERVING)])
    staying.while_sending = leaving.leave
    state[""] = False
    health.refresh()
    wait_until_told(staying, [*answers(SERVING, NOT_SERVING)])


def test_nothing_is_sent_to_those_who_left() -> None:
    state = {"": True}
    health = HealthServicer(lambda: state)
    staying, left = watched(health), watched(health)
    for stream in (staying, left):
        wait_until_told(stream, [*answers(SERVING)])
    left.leave()
    state[""] = False
    health.refresh()
    health.drain()
    wait_until_told(staying, [*answers(SERVING, NOT_SERVING), None])
    assert left.sent == answers(SERVING)


def test_a_client_that_left_before_its_watch_began_is_forgotten() -> None:
    health = HealthServicer(lambda: {"": True})
    stream = Stream()
    stream.leave()
    watched(health, stream)
    health.drain()
    assert stream.sent == []


def test_a_watch_that_begins_in_a_drain_is_told_and_ended() -> None:
    health = HealthServicer(lambda: {"": True})
    health.drain()
    wait_until_told(watched(health), [*answers(NOT_SERVING), None])


def test_a_client_that_reads_nothing_holds_up_nobody() -> None:
    state = {"": True}
    health = HealthServicer(lambda: state)
    is_told, reads, deaf = Event(), Event(), Stream()

    def read_late() -> None:
        is_told.set()
        assert_is_set(reads)

    deaf.while_sending = read_late
    watched(health, deaf)
    # Else it might be told of the change alone.
    assert_is_set(is_told)
    other = watched(health)
    wait_until_told(other, [*answers(SERVING)])
    state[""] = False
    health.refresh()
    wait_until_told(other, [*answers(SERVING, NOT_SERVING)])
    assert health.Check(HealthCheckRequest(), deaf) == answers(NOT_SERVING)[0]  # type: ignore[arg-type]
    health.drain()
    wait_until_told(other, [*answers(SERVING, NOT_SERVING), None])
    assert deaf.sent == []
    reads.set()
    # What was on its way, then what holds since.
    wait_until_told(deaf, [*answers(SERVING, NOT_SERVING), None])


def assert_is_set(event: Event) -> None:
    assert event.wait(JOIN_S)

"""A relay over a channel whose other side answers when the test says so."""

from concurrent.futures import Future

from cascade_serve.errors import UnavailableError
from cascade_serve.processes.channel import Body, Channel
from cascade_serve.processes.relay import Relay


class Held(Channel):
    """Keeps what was asked, for the test to answer."""

    def __init__(self) -> None:
        self.asked: list[tuple[Body, Future[Body]]] = []

    def call(self, op: str, body: Body | None = None) -> "Future[Body]":
        assert op == "state"
        future: Future[Body] = Future()
        self.asked.append((body or {}, future))
        return future


class Things:
    def __init__(self) -> None:
        self.state = 0
        self.channel = Held()
        self.relay = Relay(self.channel, "state", lambda: {"state": self.state})

    def change(self) -> "Future[None]":
        self.state += 1
        return self.relay.renew()

    def answer(self, number: int) -> None:
        self.channel.asked[number][1].set_result({})

    def sent(self) -> list[int]:
        return [body["state"] for body, _ in self.channel.asked]


def test_a_change_is_sent_at_once() -> None:
    things = Things()
    arrival = things.change()
    assert things.sent() == [1]
    assert not arrival.done()
    things.answer(0)
    assert arrival.done()


def test_what_changes_meanwhile_is_sent_once_and_newest() -> None:
    things = Things()
    arrivals = [things.change() for _ in range(5)]
    assert things.sent() == [1]
    things.answer(0)
    assert things.sent() == [1, 5]
    assert [arrival.done() for arrival in arrivals] == [True, False, False, False, False]
    things.answer(1)
    assert all(arrival.done() for arrival in arrivals)
    assert things.sent() == [1, 5]
    things.change()
    assert things.sent() == [1, 5, 6]


def test_nobody_waits_for_a_side_that_has_gone() -> None:
    things = Things()
    arrivals = [things.change(), things.change()]
    things.channel.asked[0][1].set_exception(UnavailableError("gone"))
    things.channel.asked[1][1].set_exception(UnavailableError("gone"))
    assert all(arrival.done() for arrival in arrivals)

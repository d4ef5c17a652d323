"""The wire between processes, over a real socket pair."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

from cascade_serve.errors import BundleError, CascadeError, NotFoundError, UnavailableError
from cascade_serve.processes import channel as channel_module
from cascade_serve.processes.channel import MAX_FRAME_BYTES, Body, Channel, encode, receive, revive

WAIT_S = 60


class Ends:
    """A channel, the other side's handlers, and an event that is set when each side has ended."""

    def __init__(self) -> None:
        left, self.raw = socket.socketpair()
        self.channel = Channel(left, peer="process 1")
        self.other = Channel(self.raw, peer="the parent")
        self.ended = threading.Event()
        self.other_ended = threading.Event()

    def start(self, handlers: dict[str, Callable[[Body], Body | None]], slow: tuple[str, ...] = ()) -> None:
        self.other.start(handlers, slow=slow, on_end=self.other_ended.set)
        self.channel.start({}, on_end=self.ended.set)


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.channel.close()
    made.other.close()
    made.raw.close()


def test_calls_are_answered_each_with_its_own(ends: Ends) -> None:
    ends.start({"double": lambda body: {"n": 2 * body["n"]}, "nothing": lambda _: None})
    answers = [ends.channel.call("double", {"n": n}) for n in range(100)]
    assert [answer.result(WAIT_S) for answer in answers] == [{"n": 2 * n} for n in range(100)]
    assert ends.channel.call("nothing").result(WAIT_S) == {}


def test_what_is_told_comes_in_order(ends: Ends) -> None:
    told: list[int] = []
    ends.start({"tell": lambda body: told.append(body["n"]), "done": lambda _: {"told": told}})
    for n in range(50):
        ends.channel.tell("tell", {"n": n})
    assert ends.channel.call("done").result(WAIT_S) == {"told": list(range(50))}


def test_a_slow_call_holds_up_no_other(ends: Ends) -> None:
    gate = threading.Event()
    ends.start({"slow": lambda _: {"opened": gate.wait(WAIT_S)}, "open": lambda _: gate.set()}, slow=("slow",))
    slow = ends.channel.call("slow")
    ends.channel.call("open").result(WAIT_S)
    assert slow.result(WAIT_S) == {"opened": True}


def test_errors_come_back_as_what_they_are(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    def fail(error: Exception) -> Callable[[Body], NoReturn]:
        def handler(_: Body) -> NoReturn:
            raise error

        return handler

    ends.start({"missing": fail(NotFoundError("cascade", "x", ["a"])), "bug": fail(KeyError("secret"))})
    with pytest.raises(NotFoundError, match=r"^cascade 'x' not found; known: a$"):
        ends.channel.call("missing").result(WAIT_S)
    with pytest.raises(CascadeError, match="internal error") as caught:
        ends.channel.call("bug").result(WAIT_S)
    assert type(caught.value) is CascadeError
    assert "secret" in caplog.text


def test_the_end_of_one_side_fails_what_the_other_asked(ends: Ends) -> None:
    gate = threading.Event()
    ends.start({"slow": lambda _: {"opened": gate.wait(WAIT_S)}}, slow=("slow",))
    asked = ends.channel.call("slow")
    ends.other.close()
    with pytest.raises(UnavailableError, match="process 1 has ended"):
        asked.result(WAIT_S)
    assert ends.ended.wait(WAIT_S)
    with pytest.raises(UnavailableError, match="process 1 has ended"):
        ends.channel.call("slow").result(WAIT_S)
    ends.channel.tell("slow")
    gate.set()


def test_the_last_words_arrive(ends: Ends) -> None:
    told: list[Body] = []
    ends.start({"counts": told.append})
    ends.channel.tell("counts", {"text": "x" * 1_000_000})
    ends.channel.close()
    assert ends.other_ended.wait(WAIT_S)
    assert [len(body["text"]) for body in told] == [1_000_000]


@pytest.mark.parametrize(
    "garbage",
    [struct.pack("!I", MAX_FRAME_BYTES + 1), struct.pack("!I", 3) + b"{}}", encode({"op": "unheard of", "body": {}})],
    ids=["too long", "no JSON", "unknown"],
)
def test_garbage_ends_the_channel(ends: Ends, garbage: bytes) -> None:
    ends.channel.start({}, on_end=ends.ended.set)
    ends.raw.sendall(garbage)
    assert ends.ended.wait(WAIT_S)


def test_a_frame_has_a_bound(monkeypatch: pytest.MonkeyPatch, ends: Ends) -> None:
    monkeypatch.setattr(channel_module, "MAX_FRAME_BYTES", 1000)
    ends.start({"big": lambda _: {"text": "x" * 1000}})
    with pytest.raises(UnavailableError, match="at most 1000"):
        ends.channel.call("big", {"text": "x" * 1000})
    with pytest.raises(UnavailableError, match="at most 1000"):
        ends.channel.call("big").result(WAIT_S)


def test_a_peer_that_stops_to_listen_is_given_up(
    monkeypatch: pytest.MonkeyPatch, ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(channel_module, "_MAX_WAITING_FRAMES", 20)
    ends.channel.start({}, on_end=ends.ended.set)
    for _ in range(200):
        ends.channel.tell("tell", {"text": "x" * 100_000})
    assert ends.ended.wait(WAIT_S)
    assert "process 1 has stopped to listen" in caplog.text


def test_a_wire_that_ends_within_a_frame_is_an_end() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.sendall(encode({"op": "x", "body": {}})[:-1])
        left.shutdown(socket.SHUT_WR)
        assert receive(right) is None


def test_errors_are_revived_by_their_names() -> None:
    assert isinstance(revive("BundleError", "broken"), BundleError)
    assert str(revive("BundleError", "broken")) == "broken"
    assert type(revive("SystemExit", "broken")) is CascadeError

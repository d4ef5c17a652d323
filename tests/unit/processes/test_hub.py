"""The parent's hub over real wires, at whose other ends tests speak for the processes."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from cascade_serve.errors import CascadeError, ConfigError, ExistsError, NotFoundError, UnavailableError
from cascade_serve.processes import messages
from cascade_serve.processes.channel import Body, Channel
from cascade_serve.processes.house import View, pack_index
from cascade_serve.processes.hub import Hub
from cascade_serve.processes.messages import Change, Memory, unpack_memory
from cascade_serve.processes.sums import Series, pack_scrape
from cascade_serve.repository import IndexEntry
from cascade_serve.rpc.shared_memory import RegionSpec

WAIT_S = 60
LOAD = Change(verb="load", name="pets")
UNLOAD = Change(verb="unload", name="pets")
REGION = RegionSpec(name="in", key="/images", byte_size=64)
REGISTER = Change(verb="register", name="in", region=REGION)
EXITS = Series("cascade_exits", "cascade_exits_total", (("cascade", "pets"), ("stage", "0"), ("reason", "CONFIDENT")))


class Process:
    """A process's end of the wire: keeps what it is told, and answers as the test wants."""

    def __init__(self, hub: Hub, memory: Memory | None = None) -> None:
        self.view = View()
        self.exits = 0
        self.changes: list[tuple[str, str]] = []
        self.synced: list[Memory] = []
        self.change_error: CascadeError | None = None
        self.sync_error: Exception | None = None
        self.may_change = threading.Event()
        self.may_change.set()
        self.is_changing, self.is_up, self.has_ended = threading.Event(), threading.Event(), threading.Event()
        self.failures: list[CascadeError] = []
        ours, theirs = socket.socketpair()
        self.channel = Channel(theirs, peer="the parent")
        handlers = {
            messages.VIEW: self._see,
            messages.SYNC: self._sync,
            messages.COUNTS: lambda _: self.counts(),
            messages.CHANGE: self._change,
        }
        self.channel.start(handlers, slow=(messages.CHANGE,), on_end=lambda: None)
        hub.join(
            Channel(ours, peer="a process"),
            memory,
            on_up=self.is_up.set,
            on_failure=self.failures.append,
            on_end=self.has_ended.set,
        )

    def _sync(self, body: Body) -> None:
        if self.sync_error is not None:
            raise self.sync_error
        self.synced.append(unpack_memory(body))

    def _see(self, body: Body) -> None:
        self.view = View.unpack(body)

    def _change(self, body: Body) -> None:
        self.is_changing.set()
        assert self.may_change.wait(WAIT_S)
        if self.change_error is not None:
            raise self.change_error
        change = Change.unpack(body)
        self.changes.append((change.verb, change.name))

    def counts(self) -> Body:
        return {"scrape": pack_scrape({EXITS: self.exits}), "tallies": {}}

    def serves(self, version: int) -> None:
        entry = IndexEntry(name="pets", version=str(version), state="READY")
        self.channel.call(messages.STATE, {"is_ready": True, "index": pack_index([entry])}).result(WAIT_S)

    def come_up(self) -> None:
        self.serves(1)
        self.channel.tell(messages.UP)
        assert self.is_up.wait(WAIT_S)

    def ask(self, change: Change) -> "Future[Body]":
        return self.channel.call(messages.CHANGE, change.pack())


@pytest.fixture
def hub() -> Hub:
    return Hub(2)


@pytest.fixture
def pair(hub: Hub) -> Iterator[tuple[Process, Process]]:
    made = Process(hub), Process(hub)
    yield made
    for process in made:
        process.channel.close()


@pytest.fixture
def both(pair: tuple[Process, Process]) -> tuple[Process, Process]:
    for process in pair:
        process.come_up()
    return pair


def test_nothing_is_changed_before_all_could_be_told(hub: Hub, pair: tuple[Process, Process]) -> None:
    first, second = pair
    first.come_up()
    assert hub.num_up == 1
    with pytest.raises(UnavailableError, match="the server is starting; try again"):
        first.ask(UNLOAD).result(WAIT_S)
    assert first.changes == []
    second.come_up()
    assert first.view.is_ready
    assert hub.num_up == 2
    first.ask(UNLOAD).result(WAIT_S)
    assert first.changes == second.changes == [("unload", "pets")]
    assert hub.memory.unloaded == {"pets"}
    second.ask(LOAD).result(WAIT_S)
    assert hub.memory.unloaded == frozenset()


def test_a_registration_that_one_process_can_not_make_is_taken_back_in_the_others(
    hub: Hub, both: tuple[Process, Process]
) -> None:
    first, second = both
    second.change_error = ExistsError("shared memory region", "in")
    with pytest.raises(ExistsError):
        first.ask(REGISTER).result(WAIT_S)
    assert first.changes == [("register", "in"), ("unregister", "in")]
    assert not hub.memory.regions
    second.change_error = None
    first.ask(REGISTER).result(WAIT_S)
    assert hub.memory.regions == (REGION,)


def test_what_one_process_did_not_have_is_unloaded_none_the_less(hub: Hub, both: tuple[Process, Process]) -> None:
    first, second = both
    second.change_error = NotFoundError("cascade", "pets", [])
    first.ask(UNLOAD).result(WAIT_S)
    assert hub.memory.unloaded == {"pets"}
    first.change_error = NotFoundError("cascade", "pets", [])
    with pytest.raises(NotFoundError, match="cascade 'pets' not found"):
        first.ask(UNLOAD).result(WAIT_S)


def test_a_process_that_starts_anew_is_told_what_was_changed_meanwhile(hub: Hub, both: tuple[Process, Process]) -> None:
    then = hub.memory
    third = Process(hub, then)
    both[0].ask(REGISTER).result(WAIT_S)
    assert third.changes == []
    third.come_up()
    assert third.synced == [hub.memory]
    assert hub.memory == Memory(versions={"pets": 1}, unloaded=frozenset(), regions=(REGION,))
    fourth = Process(hub, hub.memory)
    fourth.come_up()
    assert fourth.synced == []
    for process in (third, fourth):
        process.channel.close()


def test_a_process_that_does_not_follow_is_sent_away(hub: Hub, both: tuple[Process, Process]) -> None:
    third = Process(hub, hub.memory)
    third.sync_error = ZeroDivisionError()
    both[0].ask(UNLOAD).result(WAIT_S)
    third.channel.tell(messages.UP)
    assert third.has_ended.wait(WAIT_S)
    assert not third.is_up.is_set()
    assert hub.num_up == 2
    both[0].ask(LOAD).result(WAIT_S)


def test_a_process_that_ends_before_its_turn_is_never_up(hub: Hub, both: tuple[Process, Process]) -> None:
    first, _ = both
    first.may_change.clear()
    change = first.ask(LOAD)
    assert first.is_changing.wait(WAIT_S)
    third = Process(hub, hub.memory)
    third.serves(1)
    third.channel.tell(messages.UP)
    third.channel.close()
    assert third.has_ended.wait(WAIT_S)
    first.may_change.set()
    change.result(WAIT_S)
    # Its turn was before this one's.
    first.ask(LOAD).result(WAIT_S)
    assert not third.is_up.is_set()
    assert hub.num_up == 2


def test_a_process_that_can_not_start_says_why(pair: tuple[Process, Process]) -> None:
    first, _ = pair
    first.channel.tell(messages.FAILED, {"kind": "ConfigError", "message": "no such folder"})
    first.channel.close()
    assert first.has_ended.wait(WAIT_S)
    (error,) = first.failures
    assert isinstance(error, ConfigError)
    assert str(error) == "no such folder"


def test_the_last_counts_of_one_that_leaves_are_kept_and_it_is_not_waited_for(
    hub: Hub, both: tuple[Process, Process]
) -> None:
    first, second = both
    first.exits, second.exits = 5, 7
    assert hub.scrape() == {EXITS: 12}
    first.exits = 6
    first.channel.call(messages.STATE, {"is_ready": False, "index": []}).result(WAIT_S)
    hub.announce()
    assert not second.view.is_ready
    first.channel.tell(messages.LEAVING)
    first.channel.tell(messages.COUNTS, first.counts())
    # It is asked once more while it drains, and counts once.
    assert hub.scrape() == {EXITS: 13}
    assert hub.num_up == 1
    assert hub.memory.versions == {"pets": 1}
    first.channel.close()
    assert first.has_ended.wait(WAIT_S)
    hub.announce()
    assert second.view == View(is_ready=True, others=())
    assert hub.scrape() == {EXITS: 13}

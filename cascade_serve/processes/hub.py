"""The parent's end of all wires: who serves what, counts added up, and changes that are made in every process."""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field

from cascade_serve.errors import CascadeError, NotFoundError, UnavailableError
from cascade_serve.processes import messages
from cascade_serve.processes.channel import Body, Channel, revive
from cascade_serve.processes.house import View, served_versions, unpack_index
from cascade_serve.processes.messages import Change, Memory
from cascade_serve.processes.relay import Relay
from cascade_serve.processes.sums import Scrape, scrape_ledger, tally_ledger, unpack_scrape
from cascade_serve.repository import IndexEntry
from cascade_serve.rpc.shared_memory import RegionSpec

_log = logging.getLogger(__name__)

# A process that has not counted by then stands with what it counted last.
_COUNT_S = 2.0
_VIEW_S = 5.0


@dataclass(eq=False, slots=True)
class Member:
    """One process, as the hub knows it.

    Attributes:
        number: never used again.
        channel: the wire to it.
        memory: what it was told at its start; None at the server's.
        views: tell it what the others serve.
        is_up: it has loaded everything, and answers.
        is_leaving: it drains; the others speak without it.
        is_ready: what it says of itself.
        index: what it says that it serves.
        counting: its counts, asked for and not yet there.
    """

    number: int
    channel: Channel
    memory: Memory | None
    views: Relay = field(init=False)
    is_up: bool = False
    is_leaving: bool = False
    is_ready: bool = False
    index: tuple[IndexEntry, ...] = ()
    counting: "Future[Body] | None" = None


class Hub:
    """Joins the wires of all processes. Thread-safe.

    Args:
        size: processes that must have come up once before the server is ready.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._changing = threading.Lock()
        self._counting = threading.Lock()
        self._members: dict[int, Member] = {}
        self._num_joined = 0
        self._is_complete = False
        self._versions: dict[str, int] = {}
        self._unloaded: set[str] = set()
        self._regions: dict[str, RegionSpec] = {}
        self._scrapes = scrape_ledger()
        self._tallies = tally_ledger()

    def join(
        self,
        channel: Channel,
        memory: Memory | None,
        *,
        on_up: Callable[[], None],
        on_failure: Callable[[CascadeError], None],
        on_end: Callable[[], None],
    ) -> Member:
        """Take a new process in.

        Args:
            channel: the wire to it, not yet started.
            memory: what it is told at its start.
            on_up: called when it answers, and all that was changed meanwhile holds in it too.
            on_failure: called with what it could not start for.
            on_end: called when its wire has ended.
        """
        with self._lock:
            member = Member(self._num_joined, channel, memory)
            member.views = Relay(channel, messages.VIEW, lambda: self._view(member).pack())
            self._num_joined += 1
            self._members[member.number] = member

        def ended() -> None:
            self._leave(member)
            on_end()

        channel.start(
            {
                messages.STATE: lambda body: self._state(member, body),
                messages.UP: lambda _: self._up(member, on_up),
                messages.FAILED: lambda body: on_failure(revive(**body)),
                messages.LEAVING: lambda _: self._leaving(member),
                messages.COUNTS: lambda body: self._last_counts(member, body),
                messages.STATISTICS: lambda _: dict(self._statistics()),
                messages.CHANGE: self._change,
            },
            slow=(messages.UP, messages.STATISTICS, messages.CHANGE),
            on_end=ended,
        )
        return member

    @property
    def memory(self) -> Memory:
        """What a process that starts now must know."""
        with self._lock:
            return Memory(
                versions=dict(self._versions),
                unloaded=frozenset(self._unloaded),
                regions=tuple(self._regions.values()),
            )

    @property
    def num_up(self) -> int:
        """Processes that answer."""
        return len(self._present())

    def refresh(self) -> None:
        """Let every process look for new versions at once."""
        for member in self._all():
            member.channel.tell(messages.REFRESH)

    def scrape(self) -> Scrape:
        """Give the metrics of all processes together, those that have ended among them."""
        self._count()
        with self._lock:
            return self._scrapes.total()

    def announce(self) -> None:
        """Tell every process what the others serve, and wait until all know."""
        wait(self._broadcast(), _VIEW_S)

    def _statistics(self) -> Body:
        self._count()
        with self._lock:
            return {**self._tallies.total()}

    def _count(self) -> None:
        """Let every process count; one that still has not answered an earlier time is not waited for."""
        with self._counting:
            asked = []
            # Those that drain too.
            members = [member for member in self._all() if member.is_up]
            for member in members:
                if member.counting is None:
                    member.counting = member.channel.call(messages.COUNTS)
                    asked.append(member.counting)
            wait(asked, _COUNT_S)
            for member in members:
                if member.counting is not None and member.counting.done():
                    if member.counting.exception() is None:
                        self._take_counts(member, member.counting.result())
                    member.counting = None

    def _take_counts(self, member: Member, counts: Body) -> None:
        with self._lock:
            self._scrapes.update(member.number, unpack_scrape(counts["scrape"]))
            self._tallies.update(member.number, counts["tallies"])

    def _last_counts(self, member: Member, counts: Body) -> None:
        self._take_counts(member, counts)
        self._close_ledgers(member)

    def _close_ledgers(self, member: Member) -> None:
        """From now on its counts are those of one that has ended; what was asked of it earlier comes too late."""
        with self._lock:
            self._scrapes.end(member.number)
            self._tallies.end(member.number)

    def _state(self, member: Member, body: Body) -> None:
        with self._lock:
            member.is_ready = body["is_ready"]
            member.index = unpack_index(body["index"])
        self._broadcast()

    def _up(self, member: Member, on_up: Callable[[], None]) -> None:
        # After a change that is under way, which this process was not told of.
        with self._changing:
            now = self.memory
            if member.memory is not None and member.memory != now:
                self._sync(member, now)
            with self._lock:
                if member.number not in self._members:
                    # It has ended meanwhile.
                    return
                member.is_up = True
                self._scrapes.begin(member.number)
                self._tallies.begin(member.number)
                self._is_complete = self._is_complete or sum(one.is_up for one in self._members.values()) >= self._size
        self.announce()
        on_up()

    def _sync(self, member: Member, now: Memory) -> None:
        try:
            member.channel.call(messages.SYNC, messages.pack_memory(now)).result()
        except CascadeError:
            # It must not answer otherwise than the others do: it ends, and another takes its place.
            member.channel.close()
            raise

    def _leaving(self, member: Member) -> None:
        with self._lock:
            member.is_leaving = True
        self._broadcast()

    def _leave(self, member: Member) -> None:
        self._close_ledgers(member)
        with self._lock:
            self._members.pop(member.number, None)
        self._broadcast()

    def _all(self) -> list[Member]:
        with self._lock:
            return list(self._members.values())

    def _present(self) -> list[Member]:
        return [member for member in self._all() if member.is_up and not member.is_leaving]

    def _broadcast(self) -> "list[Future[None]]":
        with self._lock:
            self._remember(self._speaking())
        return [member.views.renew() for member in self._all()]

    def _speaking(self) -> list[Member]:
        """At the server's start every process speaks; later, one that starts anew is silent until it answers."""
        return [
            member
            for member in self._members.values()
            if not member.is_leaving and (member.is_up or not self._is_complete)
        ]

    def _view(self, member: Member) -> View:
        with self._lock:
            speaking = self._speaking()
            return View(
                is_ready=self._is_complete and all(one.is_ready for one in speaking),
                others=tuple(other.index for other in speaking if other is not member),
            )

    def _remember(self, speaking: Sequence[Member]) -> None:
        """Keep what is served in mind, also when nobody is left who could say it."""
        up = [member for member in speaking if member.is_up]
        if up:
            versions = [served_versions(member.index) for member in up]
            self._versions = {name: max(one.get(name, 0) for one in versions) for one in versions for name in one}

    def _change(self, body: Body) -> None:
        change = Change.unpack(body)
        with self._changing:
            present = self._present()
            if not present or not self._is_complete:
                # A process that still loads for the first time would not be told.
                raise UnavailableError("the server is starting; try again")
            asked = [(member, member.channel.call(messages.CHANGE, body)) for member in present]
            errors = [error for _, future in asked if (error := future.exception()) is not None]
            if change.verb == "register" and errors:
                self._undo(change, [member for member, future in asked if future.exception() is None])
            # Whichever process is asked next knows of it.
            self.announce()
            self._note(change, errors, all_failed=len(errors) == len(asked))

    def _undo(self, change: Change, members: Sequence[Member]) -> None:
        """Take a registration back where it was made, as it was not made everywhere."""
        undone = Change(verb="unregister", name=change.name).pack()
        wait([member.channel.call(messages.CHANGE, undone) for member in members])

    def _note(self, change: Change, errors: Sequence[BaseException], *, all_failed: bool) -> None:
        """Remember a change for processes that will be started.

        Raises:
            CascadeError: what the first process failed for.
        """
        with self._lock:
            match change.verb:
                case "load":
                    if not errors or not all(isinstance(error, NotFoundError) for error in errors):
                        self._unloaded.discard(change.name)
                case "unload":
                    if not all_failed:
                        self._unloaded.add(change.name)
                        errors = [error for error in errors if not isinstance(error, NotFoundError)]
                case "register":
                    if change.region is not None and not errors:
                        self._regions[change.name] = change.region
                case _:
                    self._regions = {
                        name: region for name, region in self._regions.items() if change.name not in {name, ""}
                    }
        if errors:
            raise errors[0]

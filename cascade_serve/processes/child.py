"""One front-end process: answers requests as a server alone would, and speaks for the others with their parent's help.

It lives as long as its parent: where the wire to it ends, the process drains and stops.
"""

import logging
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import wait
from queue import SimpleQueue
from types import FrameType

from cascade_serve.errors import CascadeError, UnavailableError
from cascade_serve.events import next_event
from cascade_serve.processes import messages
from cascade_serve.processes.channel import Body, Channel, receive
from cascade_serve.processes.house import View, combine, pack_index
from cascade_serve.processes.messages import Change, Memory, Settings
from cascade_serve.processes.relay import Relay
from cascade_serve.processes.sums import pack_scrape, read_scrape
from cascade_serve.repository import BundleRepository, IndexEntry, ServedBundle
from cascade_serve.rpc.ports import Repository
from cascade_serve.rpc.shared_memory import RegionSpec
from cascade_serve.rpc.tally import Tally
from cascade_serve.serving import FrontEnd

_log = logging.getLogger(__name__)

_CHANGE_POLL_S = 0.5
_STATE_S = 5.0


class SharedRepository:
    """A process's own repository in the name of all: it answers alone, but is ready, listed and changed with them.

    Args:
        own: the process's.
        branch: the way to the others.
    """

    def __init__(self, own: BundleRepository, branch: "Branch") -> None:
        self._own = own
        self._branch = branch

    @property
    def is_ready(self) -> bool:
        """Every process is ready; see :class:`~cascade_serve.rpc.ports.Repository`."""
        return self._own.is_ready and self._branch.view.is_ready

    def acquire(self, cascade: str, version: str = "") -> ServedBundle:
        """Hold a cascade of this process; see :class:`~cascade_serve.rpc.ports.Repository`."""
        return self._own.acquire(cascade, version)

    def index(self) -> list[IndexEntry]:
        """List what all processes serve; see :class:`~cascade_serve.rpc.ports.Repository`."""
        return combine([self._own.index(), *self._branch.view.others])

    def load(self, cascade: str) -> None:
        """Load a cascade in all processes; see :class:`~cascade_serve.rpc.ports.Repository`."""
        self._branch.change(Change(verb="load", name=cascade))

    def unload(self, cascade: str) -> None:
        """Unload a cascade in all processes; see :class:`~cascade_serve.rpc.ports.Repository`."""
        self._branch.change(Change(verb="unload", name=cascade))


class Branch:
    """One process of several; a :class:`~cascade_serve.serving.House` for its own front end.

    Args:
        wire: to the parent.
        settings: what the parent said first.
        events: where signals are put, and what else the main thread has to do.
    """

    def __init__(self, wire: socket.socket, settings: Settings, events: "SimpleQueue[str]") -> None:
        self.view = View()
        self._settings = settings
        self._events = events
        self._is_stopping = False
        self._channel = Channel(wire, peer="the parent process")
        self._states = Relay(self._channel, messages.STATE, self._state)
        self.front_end = FrontEnd(settings.config, house=self)

    def start(self) -> None:
        """Load and answer; the parent is told when that is done.

        Raises:
            ConfigError: nothing can be loaded, or the address can't be listened on.
        """
        handlers = {
            messages.VIEW: self._see,
            messages.REFRESH: self._refresh,
            messages.COUNTS: self._count,
            messages.SYNC: self._sync,
            messages.CHANGE: self._change,
        }
        self._channel.start(handlers, slow=(messages.SYNC, messages.CHANGE), on_end=self._orphaned)
        if self._settings.memory is None:
            self.front_end.listen()
            self.front_end.start()
        else:
            self._resume(self._settings.memory)
        self._tell_parent()
        self._channel.tell(messages.UP)

    def run(self) -> None:
        """Do what the main thread has to, until the process shall stop."""
        while next_event(self._events) != messages.LEAVING:
            threading.Thread(target=self.front_end.repository.refresh, name="refresh", daemon=True).start()
        _log.info("stopping: %d requests in flight", self.front_end.server.in_flight)

    def fail(self, error: CascadeError) -> None:
        """Tell the parent why this process can't start."""
        self._channel.tell(messages.FAILED, {"kind": type(error).__name__, "message": str(error)})

    def stop(self) -> None:
        """Drain, leave the last counts to the parent, and let go of everything."""
        self._is_stopping = True
        # From here on the others don't wait for this one to be ready.
        self._channel.tell(messages.LEAVING)
        self.front_end.drain()
        if self.front_end.is_listening:
            self._channel.tell(messages.COUNTS, self._count({}))
        self.front_end.close()
        self._channel.close()

    def share(self, repository: BundleRepository) -> Repository:
        """Give what callers see; see :class:`~cascade_serve.serving.House`."""
        return SharedRepository(repository, self)

    def noted(self) -> None:
        """Tell the others what this process serves; see :class:`~cascade_serve.serving.House`."""
        self._states.renew()

    def statistics(self) -> Mapping[str, Tally]:
        """Give the statistics of all; see :class:`~cascade_serve.rpc.ports.Siblings`."""
        sums: Mapping[str, Tally] = self._channel.call(messages.STATISTICS).result()
        return sums

    def register(self, spec: RegionSpec) -> None:
        """Make a region known in all processes; see :class:`~cascade_serve.rpc.ports.RegionControl`."""
        self.change(Change(verb="register", name=spec.name, region=spec))

    def unregister(self, name: str = "") -> None:
        """Forget regions in all processes; see :class:`~cascade_serve.rpc.ports.RegionControl`."""
        self.change(Change(verb="unregister", name=name))

    def status(self, name: str = "") -> list[RegionSpec]:
        """List regions, which all processes have; see :class:`~cascade_serve.rpc.ports.RegionControl`."""
        regions = self.front_end.server.regions
        assert regions is not None
        return regions.status(name)

    def change(self, change: Change) -> None:
        """Change something in all processes, this one among them, and wait until that is done.

        Raises:
            CascadeError: what a process failed for.
            UnavailableError: this process stops.
        """
        answer = self._channel.call(messages.CHANGE, change.pack())
        while not wait([answer], _CHANGE_POLL_S).done:
            if self._is_stopping:
                # Another process may take minutes for it, and this one's drain would wait for the caller.
                raise UnavailableError("the server is draining; the change may still be made")
        answer.result()

    def _state(self) -> Body:
        own = self.front_end.repository
        return {"is_ready": own.is_ready, "index": pack_index(own.index())}

    def _tell_parent(self) -> None:
        """Wait until the parent knows what this process serves now."""
        wait([self._states.renew()], _STATE_S)

    def _see(self, body: Body) -> None:
        self.view = View.unpack(body)
        self.front_end.refresh_health()

    def _refresh(self, _: Body) -> None:
        self._events.put(messages.REFRESH)

    def _count(self, _: Body) -> Body:
        return {
            "scrape": pack_scrape(read_scrape(self.front_end.metrics.collect())),
            "tallies": self.front_end.server.tallies(),
        }

    def _change(self, body: Body) -> None:
        try:
            self._apply(Change.unpack(body))
        finally:
            self._tell_parent()

    def _apply(self, change: Change) -> None:
        own, regions = self.front_end.repository, self.front_end.server.regions
        match change.verb:
            case "load":
                own.load(change.name)
            case "unload":
                own.unload(change.name)
            case "register":
                assert regions is not None
                assert change.region is not None
                regions.register(change.region)
            case _:
                assert regions is not None
                regions.unregister(change.name)

    def _sync(self, body: Body) -> None:
        """Make up for what was changed while this process started."""
        then = self._settings.memory
        assert then is not None
        for change in _changes(then, messages.unpack_memory(body)):
            try:
                self._apply(change)
            except CascadeError as error:
                _log.error("%s %s: %s", change.verb, change.name, error)
        self._tell_parent()

    def _resume(self, memory: Memory) -> None:
        """Load first, and listen then: the others answer meanwhile, and no client shall meet a process that loads."""
        self.front_end.repository.resume(memory.versions, memory.unloaded)
        self.front_end.listen()
        for region in memory.regions:
            try:
                self._apply(Change(verb="register", name=region.name, region=region))
            except CascadeError as error:
                # Its object has gone; requests that name it are refused by this process.
                _log.error("shared memory region %r: %s", region.name, error)
        self.front_end.answer()

    def _orphaned(self) -> None:
        """The parent has gone."""
        main_thread = threading.main_thread().ident
        assert main_thread is not None
        if not self._is_stopping:
            signal.pthread_kill(main_thread, signal.SIGTERM)


def _changes(then: Memory, now: Memory) -> Iterator[Change]:
    yield from (Change(verb="unload", name=name) for name in now.unloaded - then.unloaded)
    swapped = {name for name, version in now.versions.items() if then.versions.get(name) != version}
    yield from (Change(verb="load", name=name) for name in (then.unloaded | swapped) - now.unloaded)
    yield from (Change(verb="unregister", name=one.name) for one in then.regions if one not in now.regions)
    yield from (Change(verb="register", name=one.name, region=one) for one in now.regions if one not in then.regions)


def main(descriptor: int) -> None:
    """Be a front-end process until SIGTERM, or until the parent has gone.

    Args:
        descriptor: of the wire to the parent.
    """
    # A handler may run within any line of this thread: of all queues, events and locks only this one can take that.
    events: SimpleQueue[str] = SimpleQueue()
    is_loading = True

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_loading
        events.put(messages.LEAVING)
        # Large models load for minutes, which nothing else could end.
        if is_loading:
            is_loading = False
            raise KeyboardInterrupt

    wire = socket.socket(fileno=descriptor)
    # What this process may start must not keep the wire open after its end.
    wire.set_inheritable(False)
    first = receive(wire)
    if first is None:
        return
    settings = Settings.unpack(first["body"])
    logging.basicConfig(
        level=settings.log_level, format=f"%(asctime)s %(levelname)s [{settings.slot}] %(name)s: %(message)s"
    )
    # The parent decides what becomes of Ctrl-C and of a terminal's end.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    branch = Branch(wire, settings, events)
    try:
        signal.signal(signal.SIGTERM, on_signal)
        branch.start()
        is_loading = False
        branch.run()
    except KeyboardInterrupt:
        _log.info("stopping before every cascade was loaded")
    except CascadeError as error:
        is_loading = False
        branch.fail(error)
        sys.exit(1)
    finally:
        is_loading = False
        branch.stop()
        # A further one must not end by its default what has ended well.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

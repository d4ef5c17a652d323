"""The parent of the front-end processes: starts them, starts anew those that end, and stops all; it answers nothing.

Its main thread sleeps on one queue: signals, and what becomes of the processes.
"""

import logging
import math
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Literal, NamedTuple, NoReturn

from prometheus_client import CollectorRegistry

from cascade_serve.errors import CascadeError, ProcessError
from cascade_serve.events import next_event
from cascade_serve.metrics import MetricsServer
from cascade_serve.processes.backoff import Backoff
from cascade_serve.processes.hub import Hub
from cascade_serve.processes.messages import Memory, Settings
from cascade_serve.processes.port import hold_port
from cascade_serve.processes.spawning import describe_end, spawn
from cascade_serve.processes.sums import SummedMetrics
from cascade_serve.serving import ServeConfig

_log = logging.getLogger(__name__)

# Beyond the drain: answers on their way out, sessions being closed, the interpreter's end.
_LAST_STEPS_S = 5.0


class _Event(NamedTuple):
    """What the main thread is told.

    Attributes:
        kind: ``signal``, or what became of a process.
        child: that process.
        number: the signal.
        error: why a process can't start.
    """

    kind: Literal["signal", "up", "failed", "ended"]
    child: "_Child | None" = None
    number: int = 0
    error: CascadeError | None = None


@dataclass(eq=False, slots=True)
class _Child:
    """One process.

    Attributes:
        slot: its place, from 1 on, which the process that follows it takes over.
        process: the operating system's.
        up_s: since when it answers; None while it loads.
    """

    slot: int
    process: "subprocess.Popen[bytes]"
    up_s: float | None = None

    def __str__(self) -> str:
        return f"front-end process {self.slot} (pid {self.process.pid})"


class _Stopping(Exception):  # noqa: N818  # no error: a signal says to stop
    pass


@dataclass(eq=False, slots=True)
class _Slot:
    """A place for a process, and when the next one takes it; None while it is taken."""

    backoff: Backoff = field(default_factory=Backoff)
    due_s: float | None = None


def run(config: ServeConfig, *, log_level: str) -> None:
    """Serve with several processes until SIGTERM or SIGINT; SIGHUP lets all look for new versions.

    Args:
        config: with ``processes`` of two or more.
        log_level: least that the processes log.

    Raises:
        ConfigError: an address can't be listened on, or a process can't start for what it was given.
        ProcessError: a process ended before it was ready, or lost requests at the stop.
    """
    # A handler may run within any line of this thread: of all queues, events and locks only this one can take that.
    events: SimpleQueue[_Event] = SimpleQueue()
    with hold_port(config.server) as holder:
        hub = Hub(config.processes)
        supervisor = Supervisor(config, hub, events, port=holder.getsockname()[1], log_level=log_level)
        registry = CollectorRegistry()
        registry.register(SummedMetrics(hub.scrape, lambda: (hub.num_up, supervisor.num_restarts)))
        with MetricsServer(registry, host=config.server.host, port=config.metrics_port) as metrics:
            supervisor.run(f"metrics on http://{config.server.host}:{metrics.port}/metrics")


class Supervisor:
    """The lives of the processes.

    Args:
        config: all of it; processes get the same, but for the port.
        hub: joins their wires.
        events: what the main thread is told.
        port: that they share.
        log_level: least that they log.
    """

    def __init__(
        self, config: ServeConfig, hub: Hub, events: "SimpleQueue[_Event]", *, port: int, log_level: str
    ) -> None:
        self._config = config
        self._hub = hub
        self._events = events
        self._port = port
        self._log_level = log_level
        self._children: dict[int, _Child] = {}
        self._slots = {slot: _Slot() for slot in range(1, config.processes + 1)}
        self.num_restarts = 0
        """How often a process that had ended was started anew."""

    def run(self, metrics: str) -> None:
        """Serve until a signal says to stop.

        Args:
            metrics: where they are scraped, as the line that tells the ports has it.

        Raises:
            ConfigError: a process can't start for what it was given.
            ProcessError: a process could not be made or ended before it was ready, or lost requests at the stop.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            self._start()
            # Printed, not logged: scripts read the ports from here.
            print(f"serving gRPC on {self._config.server.host}:{self._port}, {metrics}", flush=True)  # noqa: T201
            self._watch()
        except _Stopping:
            self._stop()
        except BaseException:
            children = tuple(self._children.values())
            self._kill(children)
            for child in children:
                child.process.wait()
            raise

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(number, self._end_at_once)
        self._events.put(_Event("signal", number=number))

    def _end_at_once(self, number: int, _frame: FrameType | None) -> None:
        self._kill(tuple(self._children.values()))
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _start(self) -> None:
        for slot in self._slots:
            try:
                self._spawn(slot, None)
            except OSError as error:
                raise ProcessError(f"front-end process {slot} can't be started: {error}") from error
        while any(child.up_s is None for child in self._children.values()):
            event = next_event(self._events)
            if event.error is not None:
                raise event.error
            if event.kind == "ended" and event.child is not None:
                end = describe_end(event.child.process.returncode)
                raise ProcessError(f"{event.child} ended before it was ready: {end}")
            self._take(event)

    def _watch(self) -> NoReturn:
        while True:
            due = {slot: place.due_s for slot, place in self._slots.items() if place.due_s is not None}
            try:
                event = next_event(self._events, min(due.values(), default=math.inf) - time.monotonic())
            except Empty:
                self._start_anew(min(due, key=lambda slot: due[slot]))
                continue
            if event.error is not None:
                _log.error("%s can't start: %s", event.child, event.error)
            elif event.kind == "ended" and event.child is not None:
                self._ended(event.child)
            else:
                self._take(event)

    def _take(self, event: _Event) -> None:
        """Take what means the same at the start and later."""
        if event.kind == "up" and event.child is not None:
            event.child.up_s = time.monotonic()
            _log.info("%s answers", event.child)
        elif event.number == signal.SIGHUP:
            self._hub.refresh()
        elif event.kind == "signal":
            raise _Stopping

    def _ended(self, child: _Child) -> None:
        del self._children[child.slot]
        place = self._slots[child.slot]
        wait_s = place.backoff.next_s(0.0 if child.up_s is None else time.monotonic() - child.up_s)
        place.due_s = time.monotonic() + wait_s
        end = describe_end(child.process.returncode)
        _log.error("%s ended (%s); another takes its place in %.2f s", child, end, wait_s)

    def _start_anew(self, slot: int) -> None:
        place = self._slots[slot]
        place.due_s = None
        try:
            self._spawn(slot, self._hub.memory)
            self.num_restarts += 1
        except OSError as error:
            wait_s = place.backoff.next_s(0.0)
            place.due_s = time.monotonic() + wait_s
            _log.error("front-end process %d can't be started: %s; the next try is in %.2f s", slot, error, wait_s)

    def _spawn(self, slot: int, memory: Memory | None) -> None:
        server = replace(self._config.server, port=self._port, reuse_port=True)
        config = replace(self._config, server=server)
        process, channel = spawn(Settings(slot=slot, config=config, log_level=self._log_level, memory=memory))
        child = self._children[slot] = _Child(slot, process)
        self._hub.join(
            channel,
            memory,
            on_up=lambda: self._events.put(_Event("up", child)),
            on_failure=lambda error: self._events.put(_Event("failed", child, error=error)),
            on_end=lambda: self._reap(child),
        )

    def _reap(self, child: _Child) -> None:
        """Wait for a process whose wire has ended; runs on the wire's thread."""
        try:
            child.process.wait(_LAST_STEPS_S)
        except subprocess.TimeoutExpired:
            self._kill([child])
            child.process.wait()
        self._events.put(_Event("ended", child))

    def _stop(self) -> None:
        """Let every process drain, and kill what does not end in time.

        Raises:
            ProcessError: one was killed, or ended otherwise than by draining.
        """
        if any(child.up_s is None for child in self._children.values()):
            _log.info("stopping before every process was ready")
        for child in self._children.values():
            child.process.terminate()
        patience_s = self._config.stop_notice_s + self._config.drain_timeout_s + _LAST_STEPS_S
        faults = self._await_ends(patience_s)
        if self._children:
            late = tuple(self._children.values())
            faults += [f"{child} did not stop in {patience_s:g} s, and was killed" for child in late]
            self._kill(late)
        if faults:
            raise ProcessError("; ".join(faults))

    def _await_ends(self, patience_s: float) -> list[str]:
        """Wait until all have ended, or the time is over; give what went wrong."""
        deadline_s = time.monotonic() + patience_s
        faults = []
        while self._children:
            try:
                event = next_event(self._events, deadline_s - time.monotonic())
            except Empty:
                break
            if event.kind == "ended" and event.child is not None:
                child = self._children.pop(event.child.slot)
                # One that never answered has lost nothing, however it ended.
                if child.process.returncode and child.up_s is not None:
                    faults.append(f"{child} ended while it drained: {describe_end(child.process.returncode)}")
        return faults

    @staticmethod
    def _kill(children: Iterable[_Child]) -> None:
        for child in children:
            child.process.kill()

"""Keeps the other side of a wire up to date with something that changes, one message at a time."""

import threading
from collections.abc import Callable
from concurrent.futures import Future

from cascade_serve.processes.channel import Body, Channel


class Relay:
    """Sends how things are, and again if they changed until that arrived; what came between is left out.

    Args:
        channel: the wire.
        op: what is asked of the other side; its answer tells that the message has arrived.
        read: gives how things are now; called on any thread.
    """

    def __init__(self, channel: Channel, op: str, read: Callable[[], Body]) -> None:
        self._channel = channel
        self._op = op
        self._read = read
        self._lock = threading.Lock()
        self._is_busy = False
        self._num_changes = 0
        self._waiting: list[tuple[int, Future[None]]] = []

    def renew(self) -> "Future[None]":
        """Say that things have changed, without waiting.

        Returns:
            what is done once the other side knows of this change, or has gone.
        """
        arrival: Future[None] = Future()
        with self._lock:
            self._num_changes += 1
            self._waiting.append((self._num_changes, arrival))
            if self._is_busy:
                return arrival
            self._is_busy = True
        self._send()
        return arrival

    def _send(self) -> None:
        with self._lock:
            known = self._num_changes
        self._channel.call(self._op, self._read()).add_done_callback(lambda _: self._arrived(known))

    def _arrived(self, known: int) -> None:
        with self._lock:
            arrived = [arrival for change, arrival in self._waiting if change <= known]
            self._waiting = [(change, arrival) for change, arrival in self._waiting if change > known]
            self._is_busy = self._num_changes > known
            is_stale = self._is_busy
        for arrival in arrived:
            arrival.set_result(None)
        if is_stale:
            self._send()

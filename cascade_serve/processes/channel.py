"""One wire between the parent and a front-end process: JSON frames over a socket pair, with calls in both directions.

A frame is four bytes of length and a JSON object: ``{"op", "body"}`` tells, ``{"op", "body", "id"}`` asks, and
``{"answer": id, "body" | "error"}`` answers. Nothing is ever unpickled.
"""

import json
import logging
import socket
import struct
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from itertools import count
from queue import SimpleQueue
from typing import Any

from cascade_serve.errors import CascadeError, UnavailableError

_log = logging.getLogger(__name__)

MAX_FRAME_BYTES = 64 << 20
"""Of a frame; a longer one, or one that is no JSON, ends the channel."""
_MAX_WAITING_FRAMES = 4096
_HEADER = struct.Struct("!I")
_FLUSH_S = 2.0

Body = dict[str, Any]
"""A JSON object."""
Handler = Callable[[Body], Body | None]
"""Takes what was told or asked, and gives the answer; None is an empty one."""


class Channel:
    """One end of the wire. Thread-safe; no call of its methods waits for the other side.

    Args:
        wire: one end of a stream socket pair; the channel closes it.
        peer: who is at the other end, for messages.
    """

    def __init__(self, wire: socket.socket, *, peer: str) -> None:
        self._wire = wire
        self._peer = peer
        self._lock = threading.Lock()
        self._is_open = True
        self._ids = count()
        self._asked: dict[int, Future[Body]] = {}
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="channel-out", daemon=True)

    def start(self, handlers: Mapping[str, Handler], *, slow: Collection[str] = (), on_end: Callable[[], None]) -> None:
        """Begin to read and write.

        Args:
            handlers: op → what answers it, in order and on the reading thread, so it must be quick.
            slow: ops that get a thread of their own instead.
            on_end: called on the reading thread once the other side has gone, and every call has failed.
        """
        self._writer.start()
        reader = threading.Thread(target=self._read, args=(handlers, slow, on_end), name="channel-in", daemon=True)
        reader.start()

    def tell(self, op: str, body: Body | None = None) -> None:
        """Say something; nobody answers, and when the other side has gone nothing happens."""
        self._send(encode({"op": op, "body": body or {}}))

    def call(self, op: str, body: Body | None = None) -> "Future[Body]":
        """Ask something.

        Returns:
            the answer to come, or one of the :class:`~cascade_serve.errors.CascadeError` classes: what the handler
            raised, or UnavailableError when the other side goes.
        """
        future: Future[Body] = Future()
        number = next(self._ids)
        contents = encode({"op": op, "body": body or {}, "id": number})
        with self._lock:
            if not self._is_open:
                future.set_exception(self._gone())
                return future
            self._asked[number] = future
        # Should the other side go now, the reader fails the call.
        self._send(contents)
        return future

    def close(self) -> None:
        """Write out what was said, then end the channel; the other side sees its end. May be called twice."""
        self._outbox.put(None)
        if self._writer.is_alive():
            self._writer.join(_FLUSH_S)
        self._hang_up()

    def _send(self, contents: bytes) -> None:
        if self._outbox.qsize() > _MAX_WAITING_FRAMES:
            _log.error("%s has stopped to listen", self._peer)
            self._hang_up()
        if self._is_open:
            self._outbox.put(contents)

    def _write(self) -> None:
        try:
            while (frame := self._outbox.get()) is not None:
                self._wire.sendall(frame)
        except OSError:
            # The reader sees the end too, and tells.
            self._hang_up()

    def _read(self, handlers: Mapping[str, Handler], slow: Collection[str], on_end: Callable[[], None]) -> None:
        try:
            while (frame := receive(self._wire)) is not None:
                self._take(frame, handlers, slow)
        except (OSError, ValueError, KeyError) as error:
            _log.debug("%s: %r", self._peer, error)
        finally:
            self._fail_all()
            self._outbox.put(None)
            self._wire.close()
            on_end()

    def _take(self, frame: Body, handlers: Mapping[str, Handler], slow: Collection[str]) -> None:
        if "answer" in frame:
            self._resolve(frame)
            return
        arguments = (handlers[frame["op"]], frame)
        if frame["op"] in slow:
            threading.Thread(target=self._answer, args=arguments, name=f"channel-{frame['op']}", daemon=True).start()
        else:
            self._answer(*arguments)

    def _answer(self, handler: Handler, frame: Body) -> None:
        number = frame.get("id")
        try:
            contents = encode({"answer": number, "body": handler(frame["body"]) or {}})
        except CascadeError as error:
            contents = self._failure(frame, type(error).__name__, str(error))
        except Exception:  # noqa: BLE001  # a frame's one boundary: the asker gets an error, the log the traceback
            _log.exception("%s from %s failed", frame["op"], self._peer)
            contents = self._failure(frame, CascadeError.__name__, "internal error; the server's log has the details")
        if number is not None:
            self._send(contents)

    def _failure(self, frame: Body, kind: str, message: str) -> bytes:
        if "id" not in frame:
            _log.error("%s from %s: %s", frame["op"], self._peer, message)
        return encode({"answer": frame.get("id"), "error": {"kind": kind, "message": message}})

    def _resolve(self, frame: Body) -> None:
        with self._lock:
            future = self._asked.pop(frame["answer"], None)
        if future is None:
            return
        if "error" in frame:
            future.set_exception(revive(**frame["error"]))
        else:
            future.set_result(frame["body"])

    def _fail_all(self) -> None:
        with self._lock:
            self._is_open = False
            asked = list(self._asked.values())
            self._asked.clear()
        for future in asked:
            future.set_exception(self._gone())

    def _gone(self) -> UnavailableError:
        return UnavailableError(f"{self._peer} has ended; try again")

    def _hang_up(self) -> None:
        try:
            self._wire.shutdown(socket.SHUT_RDWR)
        except OSError:
            # It has ended already.
            return


def encode(frame: Body) -> bytes:
    """Write one frame.

    Raises:
        UnavailableError: it would be longer than :data:`MAX_FRAME_BYTES`.
    """
    contents = json.dumps(frame, separators=(",", ":")).encode()
    if len(contents) > MAX_FRAME_BYTES:
        raise UnavailableError(f"a message between processes: got {len(contents)} bytes; at most {MAX_FRAME_BYTES}")
    return _HEADER.pack(len(contents)) + contents


def receive(wire: socket.socket) -> Body | None:
    """Read one frame; None when the other side has gone.

    Raises:
        ValueError: the frame is too long, or no JSON.
        OSError: the wire failed.
    """
    header = _read_exactly(wire, _HEADER.size)
    if header is None:
        return None
    (length,) = _HEADER.unpack(header)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes; at most {MAX_FRAME_BYTES} are taken")
    contents = _read_exactly(wire, length)
    if contents is None:
        return None
    frame: Body = json.loads(contents)
    return frame


def _read_exactly(wire: socket.socket, length: int) -> bytes | None:
    contents = bytearray()
    while len(contents) < length:
        part = wire.recv(min(length - len(contents), 1 << 20))
        if not part:
            return None
        contents += part
    return bytes(contents)


def revive(kind: str, message: str) -> CascadeError:
    """Make the error anew that was raised at the other side; an unknown kind is a plain CascadeError."""
    classes = {one.__name__: one for one in _descendants(CascadeError)}
    cls = classes.get(kind, CascadeError)
    # Not by its __init__, which would compose the message again.
    return cls.__new__(cls, message)


def _descendants(cls: type[CascadeError]) -> list[type[CascadeError]]:
    return [cls, *(one for child in cls.__subclasses__() for one in _descendants(child))]

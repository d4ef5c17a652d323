"""System shared memory, Triton's extension: tensors that come and go beside the message, in objects of the callers'.

A caller on the same machine makes a POSIX shared memory object, registers a region of it, and names the region in the
parameters of a tensor. The objects are never mapped: contents are copied by pread and pwrite, so that a caller who cuts
its object short gets an error, where touching a mapping would end the process by SIGBUS.
"""

import errno
import os
import stat
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cascade_serve.errors import ConfigError, ExistsError, InvalidRequestError, NotFoundError, OverloadedError
from cascade_serve.rpc.stubs.grpc_service_pb2 import InferParameter

REGION = "shared_memory_region"
BYTE_SIZE = "shared_memory_byte_size"
OFFSET = "shared_memory_offset"
SPAN_PARAMETERS = frozenset({REGION, BYTE_SIZE, OFFSET})

FOLDER = Path("/dev/shm")  # noqa: S108 - where shm_open has its objects on Linux
_MAX_NAME_BYTES = 255
# Linux reads and writes no more than this in one call.
_MAX_CALL_BYTES = 0x7FFF_F000
_MAX_OFFSET = 2**63 - 1
# The C library keeps named semaphores among the objects.
_SEMAPHORE_PREFIX = "sem."
_KEY_LIMIT = (
    f"the name of a shared memory object: 1 to {_MAX_NAME_BYTES} bytes without a slash but one in front, not '.' or"
    f" '..', and no semaphore ({_SEMAPHORE_PREFIX}...)"
)
# A link (ELOOP) is never followed, and a pipe never waited for.
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_READ_ONLY_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS)
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionSpec:
    """What a caller registers.

    Attributes:
        name: by which requests refer to the region.
        key: the object's name, as shm_open takes it: without a slash, or with one in front.
        offset: bytes from the object's start to the region's.
        byte_size: of the region.
    """

    name: str
    key: str
    offset: int = 0
    byte_size: int


class Region:
    """A registered region. It holds the object open until nobody refers to it: neither the table nor a request.

    Args:
        spec: what was registered.
        descriptor: of the open object; closed with the region.
        is_writable: whether it is open for writing too.
    """

    def __init__(self, spec: RegionSpec, descriptor: int, *, is_writable: bool) -> None:
        self.spec = spec
        self.is_writable = is_writable
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    def object_bytes(self) -> int:
        """Give the size of the whole object as it is now."""
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, byte_size: int) -> bytes:
        """Copy bytes of the region; fewer than asked for where the object has become shorter."""
        return os.pread(self._descriptor, byte_size, self.spec.offset + offset)

    def write(self, offset: int, contents: bytes) -> int:
        """Copy bytes into the region; give how many the object had room for."""
        start = self.spec.offset + offset
        # NOTE: past the object's end, pwrite would make it longer.
        if self.object_bytes() < start + len(contents):
            return 0
        return os.pwrite(self._descriptor, contents, start)


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Where one tensor lies.

    Attributes:
        tensor: its name, for messages.
        region: that it lies in.
        offset: bytes from the region's start.
        byte_size: of the tensor; of an output, the room for it.
    """

    tensor: str
    region: Region
    offset: int
    byte_size: int

    def read(self) -> bytes:
        """Copy an input's contents.

        Raises:
            InvalidRequestError: the object has become too short for them, or can't be read.
        """
        try:
            contents = self.region.read(self.offset, self.byte_size)
        except OSError as error:
            raise self._fault(f"an object that can't be read ({error.strerror})") from error
        if len(contents) != self.byte_size:
            raise self._fault(f"an object cut short to {self.region.object_bytes()} bytes")
        return contents

    def write(self, contents: bytes) -> None:
        """Copy an output's contents, at most :attr:`byte_size`.

        Raises:
            InvalidRequestError: the object has become too short for them, or can't be written.
        """
        try:
            written = self.region.write(self.offset, contents)
        except OSError as error:
            raise self._fault(f"an object that can't be written ({error.strerror})") from error
        if written != len(contents):
            raise self._fault(f"an object cut short to {self.region.object_bytes()} bytes")

    def check_room(self, byte_size: int) -> None:
        """Check that an output can be written.

        Args:
            byte_size: the most that it may have.

        Raises:
            InvalidRequestError: the room is less, or the server may only read the region.
        """
        if self.byte_size < byte_size:
            raise InvalidRequestError(f"{self.tensor}.{BYTE_SIZE}", self.byte_size, f"at least {byte_size}")
        if not self.region.is_writable:
            raise self._fault("an object that the server may only read")

    def _fault(self, what: str) -> InvalidRequestError:
        spec = self.region.spec
        end = spec.offset + self.offset + self.byte_size
        limit = f"an object of at least {end} bytes that the server may read, and for outputs write"
        return InvalidRequestError(f"{self.tensor}.{REGION}", f"{spec.name!r}, {what}", limit)


class RegionTable:
    """The regions that callers have registered in this process. Thread-safe.

    Args:
        max_input_bytes: of an input that lies in a region.
        max_regions: at the same time; each holds a file descriptor.
        folder: where the system keeps shared memory objects.

    Raises:
        ConfigError: the system has no such folder.
    """

    def __init__(self, *, max_input_bytes: int, max_regions: int = 256, folder: Path = FOLDER) -> None:
        if not folder.is_dir():
            raise ConfigError(f"shared memory: got a system without the folder {folder}; must be Linux")
        self._max_input_bytes = min(max_input_bytes, _MAX_CALL_BYTES)
        self._max_regions = max_regions
        self._folder = folder
        self._changing = threading.Lock()
        self._regions: dict[str, Region] = {}

    def register(self, spec: RegionSpec) -> None:
        """Make a region known; see :class:`~cascade_serve.rpc.ports.RegionControl`."""
        _check(spec)
        with self._changing:
            if spec.name in self._regions:
                raise ExistsError("shared memory region", spec.name)
            if len(self._regions) >= self._max_regions:
                raise OverloadedError(
                    f"{self._max_regions} shared memory regions are registered, the most there may be"
                )
            self._regions[spec.name] = self._open(spec)

    def unregister(self, name: str = "") -> None:
        """Forget regions; see :class:`~cascade_serve.rpc.ports.RegionControl`."""
        with self._changing:
            if name:
                self._regions.pop(name, None)
            else:
                self._regions.clear()

    def status(self, name: str = "") -> list[RegionSpec]:
        """List regions; see :class:`~cascade_serve.rpc.ports.RegionControl`."""
        if name:
            return [self._find(name).spec]
        with self._changing:
            return [region.spec for region in self._regions.values()]

    def input_span(self, tensor: str, parameters: Mapping[str, InferParameter]) -> Span:
        """Find where an input lies.

        Args:
            tensor: its name.
            parameters: of it, all among :data:`SPAN_PARAMETERS`.

        Raises:
            InvalidRequestError: a parameter is missing or has another type, the tensor does not lie within the region,
                or is larger than this table takes.
            NotFoundError: the region is not registered.
        """
        span = self._span(tensor, parameters)
        if span.byte_size > self._max_input_bytes:
            limit = f"at most {self._max_input_bytes}, the most that one request may hold"
            raise InvalidRequestError(f"{tensor}.{BYTE_SIZE}", span.byte_size, limit)
        return span

    def output_span(self, tensor: str, parameters: Mapping[str, InferParameter]) -> Span:
        """Find where an output shall go: arguments and errors are those of :meth:`input_span`."""
        return self._span(tensor, parameters)

    def _span(self, tensor: str, parameters: Mapping[str, InferParameter]) -> Span:
        region = self._find(_name(tensor, parameters))
        room = region.spec.byte_size
        offset = _integer(tensor, OFFSET, parameters) if OFFSET in parameters else 0
        byte_size = _integer(tensor, BYTE_SIZE, parameters)
        for name, value, limit in ((OFFSET, offset, room), (BYTE_SIZE, byte_size, room - offset)):
            if not 0 <= value <= limit:
                at = f"between 0 and {limit}: region {region.spec.name!r} has {room} bytes"
                raise InvalidRequestError(
                    f"{tensor}.{name}", value, at if name == OFFSET else f"{at}, from {offset} on"
                )
        return Span(tensor=tensor, region=region, offset=offset, byte_size=byte_size)

    def _find(self, name: str) -> Region:
        region = self._regions.get(name)
        if region is None:
            with self._changing:
                raise NotFoundError("shared memory region", name, sorted(self._regions))
        return region

    def _open(self, spec: RegionSpec) -> Region:
        descriptor, is_writable = _open_object(self._folder, spec.key)
        region = Region(spec, descriptor, is_writable=is_writable)
        end, size = spec.offset + spec.byte_size, region.object_bytes()
        if end > size:
            limit = (
                f"at most {max(0, size - spec.offset)}: the object has {size} bytes, and the offset is {spec.offset}"
            )
            raise InvalidRequestError("byte_size", spec.byte_size, limit)
        return region


def _check(spec: RegionSpec) -> None:
    if not 1 <= len(spec.name.encode()) <= _MAX_NAME_BYTES:
        raise InvalidRequestError("name", f"{len(spec.name.encode())} bytes", f"1 to {_MAX_NAME_BYTES} bytes")
    key = spec.key.removeprefix("/")
    is_name = 1 <= len(key.encode()) <= _MAX_NAME_BYTES and key not in {".", ".."} and not {"/", "\0"} & set(key)
    if not is_name or key.startswith(_SEMAPHORE_PREFIX):
        raise InvalidRequestError("key", repr(spec.key[:_MAX_NAME_BYTES]), _KEY_LIMIT)
    for name, value, low in (("offset", spec.offset, 0), ("byte_size", spec.byte_size, 1)):
        if not low <= value <= _MAX_OFFSET:
            raise InvalidRequestError(name, value, f"between {low} and {_MAX_OFFSET}")


def _open_object(folder: Path, key: str) -> tuple[int, bool]:
    """Open an object for writing too, if that is allowed; give its descriptor and whether it was."""
    path = folder / key.removeprefix("/")
    try:
        try:
            descriptor, is_writable = os.open(path, os.O_RDWR | _FLAGS), True
        except OSError as error:
            if error.errno not in _READ_ONLY_ERRORS:
                raise
            descriptor, is_writable = os.open(path, os.O_RDONLY | _FLAGS), False
    except OSError as error:
        if error.errno in _OUT_OF_DESCRIPTORS:
            raise OverloadedError("the server has no file descriptor left for a shared memory object") from error
        limit = f"a shared memory object that the server may open ({error.strerror})"
        raise InvalidRequestError("key", repr(key), limit) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidRequestError("key", repr(key), "a shared memory object, and no folder, pipe or device")
    return descriptor, is_writable


def _name(tensor: str, parameters: Mapping[str, InferParameter]) -> str:
    if REGION not in parameters or parameters[REGION].WhichOneof("parameter_choice") != "string_param":
        got = "another type" if REGION in parameters else "nothing"
        raise InvalidRequestError(f"{tensor}.{REGION}", got, "a text, the name of a registered region")
    return parameters[REGION].string_param


def _integer(tensor: str, name: str, parameters: Mapping[str, InferParameter]) -> int:
    choice = parameters[name].WhichOneof("parameter_choice") if name in parameters else None
    match choice:
        case "int64_param":
            return parameters[name].int64_param
        case "uint64_param":
            return parameters[name].uint64_param
        case _:
            got = "another type" if name in parameters else "nothing"
            raise InvalidRequestError(f"{tensor}.{name}", got, "an integer, a number of bytes")

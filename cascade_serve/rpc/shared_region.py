"""The client's half of shared memory: an object of its own, and where tensors lie in it."""
# Shapes: B rows, HWC image.

import math
import mmap
import os
import secrets
import weakref
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from cascade_serve.core.arrays import ImageArray
from cascade_serve.errors import InvalidRequestError
from cascade_serve.rpc.shared_memory import BYTE_SIZE, FOLDER, OFFSET, REGION, RegionSpec
from cascade_serve.rpc.stubs.grpc_service_pb2 import ModelInferRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Room for one tensor in a region; of :meth:`SharedRegion.place`.

    Attributes:
        region: that it lies in.
        offset: bytes from the region's start.
        byte_size: of the room.
    """

    region: "SharedRegion"
    offset: int
    byte_size: int

    def read(self, byte_size: int) -> bytes:
        """Copy the first bytes."""
        return self.region.read(self.offset, min(byte_size, self.byte_size))

    def write_to(
        self, tensor: ModelInferRequest.InferInputTensor | ModelInferRequest.InferRequestedOutputTensor
    ) -> None:
        """Name the place in a tensor's parameters."""
        tensor.parameters[REGION].string_param = self.region.spec.name
        tensor.parameters[BYTE_SIZE].int64_param = self.byte_size
        if self.offset:
            tensor.parameters[OFFSET].int64_param = self.offset


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedImages:
    """Images that lie in a region; of :meth:`SharedRegion.images`.

    Attributes:
        place: where.
        array: uint8 [B, H, W, C]: the memory itself, for the caller to fill.
    """

    place: Place
    array: ImageArray


class SharedRegion:
    """A shared memory object that this process makes, whole as one region; as a context manager it is closed.

    A server that runs as another user can't open it, unless ``mode`` lets it. The object goes with the process at the
    latest; only one that is killed leaves it behind, as a file ``/dev/shm/cascade-serve-...``.

    Args:
        byte_size: of the object, at least 1.
        mode: the object's permissions, as those of a file.

    Raises:
        OSError: the system has no such memory, or not enough.
    """

    def __init__(self, byte_size: int, *, mode: int = 0o600) -> None:
        name = f"cascade-serve-{secrets.token_hex(8)}"
        self.spec = RegionSpec(name=name, key=f"/{name}", byte_size=byte_size)
        path = FOLDER / name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        self._unlink = weakref.finalize(self, Path.unlink, path, missing_ok=True)
        try:
            os.fchmod(descriptor, mode)
            os.posix_fallocate(descriptor, 0, byte_size)
            self._memory = mmap.mmap(descriptor, byte_size)
        except BaseException:
            self._unlink()
            raise
        finally:
            os.close(descriptor)

    def place(self, byte_size: int, offset: int = 0) -> Place:
        """Give room for a tensor.

        Args:
            byte_size: of the room. An output needs 8 bytes an image (``label``, ``flops``), 4 (``confidence``,
                ``exit_stage``), 14 (``exit_reason``), or 4 a class (``probabilities``).
            offset: bytes from the region's start.

        Raises:
            InvalidRequestError: it does not lie within the region.
        """
        if byte_size < 0 or offset < 0 or offset + byte_size > self.spec.byte_size:
            got = f"{byte_size} bytes from {offset} on"
            raise InvalidRequestError("place", got, f"within the region's {self.spec.byte_size} bytes")
        return Place(region=self, offset=offset, byte_size=byte_size)

    def images(self, shape: tuple[int, int, int, int], offset: int = 0) -> SharedImages:
        """Give room for images, to be filled through ``array``; it stays usable after the region is closed.

        Args:
            shape: [B, H, W, C].
            offset: bytes from the region's start.

        Raises:
            InvalidRequestError: they do not lie within the region.
        """
        place = self.place(math.prod(shape), offset)
        return SharedImages(place=place, array=np.ndarray(shape, np.uint8, buffer=self._memory, offset=offset))

    def read(self, offset: int, byte_size: int) -> bytes:
        """Copy bytes of the region."""
        return self._memory[offset : offset + byte_size]

    def close(self) -> None:
        """Take the object's name away; the memory goes with the last view of it."""
        self._unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

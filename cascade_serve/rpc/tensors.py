"""Tensors on their way in: a request's images, raw or encoded, in the message or in shared memory."""
# Shapes: B rows, HWC image.

import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from cascade_serve.core.arrays import ImageArray
from cascade_serve.core.plan import Task
from cascade_serve.errors import AbandonedError, InvalidRequestError, LateError
from cascade_serve.rpc.shared_memory import SPAN_PARAMETERS, RegionTable
from cascade_serve.rpc.stubs.grpc_service_pb2 import InferParameter, ModelInferRequest
from model_zoo.errors import ImageError
from model_zoo.preprocess import DecodeLimits, decode_image, read_header

IMAGES = "images"
ENCODED = "encoded"
_INPUTS = f"exactly one of {IMAGES!r} and {ENCODED!r}"
_LENGTH_BYTES = 4
# More at the same time would be no quicker, and each may take some hundred megabytes.
_DECODERS = threading.BoundedSemaphore(os.cpu_count() or 1)

InputTensor = ModelInferRequest.InferInputTensor


class Admission(NamedTuple):
    """What bounds the reading of one request's images.

    Attributes:
        task: image size of the cascade.
        max_rows: images a request may hold.
        limits: of each encoded image.
        max_request_pixels: of all encoded images of the request together.
        deadline_s: on ``time.monotonic``'s clock; None is no deadline.
        is_wanted: tells whether the caller still waits; asked between encoded images.
        regions: the shared memory that is registered; None where none is served.
    """

    task: Task
    max_rows: int
    limits: DecodeLimits
    max_request_pixels: int
    deadline_s: float | None
    is_wanted: Callable[[], bool]
    regions: RegionTable | None = None


def read_images(message: ModelInferRequest, admission: Admission) -> ImageArray:
    """Read a request's one input.

    Returns:
        uint8 [B, H, W, C]; for raw contents a read-only view of the message's bytes.

    Raises:
        InvalidRequestError: the tensor is not one that the cascade takes, an encoded image can't be decoded, or shared
            memory can't be read.
        NotFoundError: a region of shared memory is not registered.
        LateError: the deadline passed while images were decoded.
        AbandonedError: the caller went meanwhile.
    """
    inputs = message.inputs
    if len(inputs) != 1:
        names = [tensor.name for tensor in inputs[:8]]
        raise InvalidRequestError("inputs", f"{len(inputs)} tensors {names}", _INPUTS)
    tensor = inputs[0]
    name = tensor.name
    if name == IMAGES:
        return _pixels(message, tensor, admission)
    if name == ENCODED:
        return _decoded(_files(message, tensor, admission), admission)
    raise InvalidRequestError("inputs", repr(name), _INPUTS)


def check_parameters(tensor: str, parameters: Mapping[str, InferParameter], regions: RegionTable | None) -> RegionTable:
    """Check that a tensor has none but shared memory's parameters, and that this is served.

    Returns:
        where the tensor's region is to be looked up.

    Raises:
        InvalidRequestError: it has others, or shared memory is not served.
    """
    strangers = parameters.keys() - SPAN_PARAMETERS
    if regions is None or strangers:
        _refuse_parameter(tensor, min(strangers or parameters))
    return regions


def _refuse_parameter(tensor: str, name: str) -> NoReturn:
    if name in SPAN_PARAMETERS:
        limit = "absent: shared memory is not served, so send or take the contents in the message"
    elif name == "classification":
        limit = "absent: ask for the output 'probabilities' and sort it, or for 'label'"
    else:
        limit = "absent: tensors take no parameters but shared memory's"
    raise InvalidRequestError(f"{tensor}.parameters", repr(name), limit)


def _pixels(message: ModelInferRequest, tensor: InputTensor, admission: Admission) -> ImageArray:
    _check_datatype(tensor, "UINT8")
    shape = tuple(tensor.shape)
    image_shape = admission.task.image_shape
    if len(shape) != 4 or shape[1:] != image_shape or not 1 <= shape[0] <= admission.max_rows:
        dims = ", ".join(map(str, image_shape))
        raise InvalidRequestError(IMAGES, f"shape {list(shape)}", f"shape [n, {dims}] with n 1 to {admission.max_rows}")
    flat = _flat_pixels(message, tensor, admission.regions)
    expected = math.prod(shape)
    if flat.size != expected:
        raise InvalidRequestError(IMAGES, f"{flat.size} elements", f"{expected} elements for shape {list(shape)}")
    return flat.reshape(shape)


def _flat_pixels(message: ModelInferRequest, tensor: InputTensor, regions: RegionTable | None) -> NDArray[np.uint8]:
    raw = _raw_contents(message, tensor, regions)
    if raw is not None:
        return np.frombuffer(raw, dtype=np.uint8)
    _check_contents(tensor, "uint_contents")
    wide = np.array(tensor.contents.uint_contents, dtype=np.uint32)
    if wide.size and wide.max() > 255:
        raise InvalidRequestError(IMAGES, f"element {wide.max()}", "between 0 and 255")
    return wide.astype(np.uint8)


def _files(message: ModelInferRequest, tensor: InputTensor, admission: Admission) -> Sequence[bytes]:
    _check_datatype(tensor, "BYTES")
    shape = tuple(tensor.shape)
    if len(shape) != 1 or not 1 <= shape[0] <= admission.max_rows:
        raise InvalidRequestError(ENCODED, f"shape {list(shape)}", f"shape [n] with n 1 to {admission.max_rows}")
    raw = _raw_contents(message, tensor, admission.regions)
    if raw is not None:
        return unpack_bytes(ENCODED, raw, shape[0])
    _check_contents(tensor, "bytes_contents")
    files = tensor.contents.bytes_contents
    if len(files) != shape[0]:
        raise InvalidRequestError(ENCODED, f"{len(files)} elements", f"{shape[0]} elements for shape {list(shape)}")
    return files


def _check_datatype(tensor: InputTensor, datatype: str) -> None:
    if tensor.datatype != datatype:
        raise InvalidRequestError(tensor.name, f"datatype {tensor.datatype!r}", datatype)


def _raw_contents(message: ModelInferRequest, tensor: InputTensor, regions: RegionTable | None) -> bytes | None:
    """Give the contents that lie in shared memory, or raw beside the tensors; None where they are typed inside."""
    raw = message.raw_input_contents
    if tensor.parameters:
        table = check_parameters(tensor.name, tensor.parameters, regions)
        if raw or _has_typed(tensor):
            raise InvalidRequestError(tensor.name, "contents beside shared memory", "in one of the two")
        return table.input_span(tensor.name, tensor.parameters).read()
    if not raw:
        return None
    if len(raw) != 1:
        raise InvalidRequestError("raw_input_contents", f"{len(raw)} entries", "1 entry: one for each input")
    if _has_typed(tensor):
        raise InvalidRequestError(tensor.name, "contents beside raw_input_contents", "in one of the two")
    return raw[0]


def _has_typed(tensor: InputTensor) -> bool:
    return tensor.HasField("contents") and bool(tensor.contents.ListFields())


def _check_contents(tensor: InputTensor, field: str) -> None:
    strangers = [descriptor.name for descriptor, _ in tensor.contents.ListFields() if descriptor.name != field]
    if strangers:
        raise InvalidRequestError(tensor.name, f"contents in {strangers[0]}", f"in {field} or in raw_input_contents")


def _decoded(files: Sequence[bytes], admission: Admission) -> ImageArray:
    _check_pixels(files, admission)
    height, width, channels = admission.task.image_shape
    images_BHWC = np.empty((len(files), height, width, channels), dtype=np.uint8)
    for row, data in enumerate(files):
        try:
            with _DECODERS:
                _check_wanted(admission)
                images_BHWC[row] = decode_image(
                    data, height=height, width=width, channels=channels, limits=admission.limits
                )
        except ImageError as error:
            raise InvalidRequestError(
                f"{ENCODED}[{row}]", f"a file that can't be decoded ({error})", "a JPEG or PNG image"
            ) from error
    return images_BHWC


def _check_pixels(files: Sequence[bytes], admission: Admission) -> None:
    """Bound a request's decoding before it begins: a few kilobytes of PNG can hold a second of it."""
    if len(files) * admission.limits.max_pixels <= admission.max_request_pixels:
        return
    pixels = 0
    for data in files:
        # A file that is broken is named, with its row, when its turn to be decoded comes.
        with suppress(ImageError):
            header = read_header(data, admission.limits)
            pixels += header.height * header.width
    if pixels > admission.max_request_pixels:
        limit = f"at most {admission.max_request_pixels} in one request"
        raise InvalidRequestError(ENCODED, f"{len(files)} images of {pixels} pixels in all", limit)


def _check_wanted(admission: Admission) -> None:
    if admission.deadline_s is not None and time.monotonic() >= admission.deadline_s:
        raise LateError("the deadline passed while images were decoded")
    if not admission.is_wanted():
        raise AbandonedError("the caller went while images were decoded")


def pack_bytes(elements: Iterable[bytes]) -> bytes:
    """Encode a BYTES tensor: each element is its length (four bytes, little-endian), then itself."""
    return b"".join(len(element).to_bytes(_LENGTH_BYTES, "little") + element for element in elements)


def unpack_bytes(field: str, raw: bytes, count: int) -> list[bytes]:
    """Decode a BYTES tensor.

    Args:
        field: the tensor's name, for the message.
        raw: its contents.
        count: the elements that its shape demands.

    Raises:
        InvalidRequestError: the contents hold more or fewer elements, or an element is cut off.
    """
    elements: list[bytes] = []
    position = 0
    while position < len(raw) and len(elements) < count:
        start = position + _LENGTH_BYTES
        position = start + int.from_bytes(raw[position:start], "little")
        if start > len(raw) or position > len(raw):
            raise InvalidRequestError(
                f"{field}[{len(elements)}]",
                f"an element that ends past the contents' {len(raw)} bytes",
                "its length in four bytes (little-endian), then so many bytes",
            )
        elements.append(raw[start:position])
    if len(elements) != count or position != len(raw):
        surplus = f" and {len(raw) - position} bytes more" if position != len(raw) else ""
        raise InvalidRequestError(field, f"{len(elements)} elements{surplus}", f"{count} elements")
    return elements

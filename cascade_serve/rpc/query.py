"""The client's half of the codec: numpy arrays to a request, an answer to a dataclass."""
# Shapes: B rows, K classes, HWC image.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_serve.core.arrays import FloatArray, ImageArray, IntArray
from cascade_serve.core.request import ExitReason
from cascade_serve.errors import InvalidRequestError
from cascade_serve.rpc.parameters import Scalar, write_parameter
from cascade_serve.rpc.remote import RemoteError
from cascade_serve.rpc.shared_memory import BYTE_SIZE, REGION
from cascade_serve.rpc.shared_region import Place, SharedImages
from cascade_serve.rpc.stubs.grpc_service_pb2 import ModelInferRequest, ModelInferResponse
from cascade_serve.rpc.tensors import ENCODED, IMAGES, pack_bytes, unpack_bytes

Images = ImageArray | bytes | Sequence[bytes] | SharedImages
"""uint8 [B, H, W, C] or [H, W, C], in shared memory or not, or JPEG and PNG files as they are."""

Outputs = Sequence[str] | Mapping[str, Place | None]
"""Names; with the places of those that shall go to shared memory, and None for the others."""

_DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "INT32": np.dtype("<i4"), "INT64": np.dtype("<i8")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The answer to one request; outputs that were not asked for are None. Arrays are read-only.

    Attributes:
        model_name: the cascade.
        model_version: its version that answered.
        policy: the policy that was followed.
        certified: the policy's certificate covers the answer.
        probabilities: float32 [B, K].
        label: int64 [B], index of the largest probability.
        confidence: float32 [B] in [0, 1], by the plan's confidence function.
        exit_stage: int32 [B], 0-based, in the policy's stages.
        exit_reason: one an image.
        flops: int64 [B], what the stages that ran cost.
    """

    model_name: str
    model_version: str
    policy: str
    certified: bool
    probabilities: FloatArray | None = None
    label: IntArray | None = None
    confidence: FloatArray | None = None
    exit_stage: NDArray[np.int32] | None = None
    exit_reason: tuple[ExitReason, ...] | None = None
    flops: IntArray | None = None


def encode_query(
    images: Images,
    *,
    model: str,
    version: str = "",
    request_id: str = "",
    outputs: Outputs | None = None,
    **parameters: Scalar | Sequence[float] | None,
) -> ModelInferRequest:
    """Write a request.

    Args:
        images: what to classify.
        model: the cascade.
        version: of it; empty is the one being served.
        request_id: comes back in the answer.
        outputs: those wanted; None is all.
        **parameters: of the request, by their names on the wire; None is left out.

    Raises:
        InvalidRequestError: the images are neither a uint8 array of three or four dimensions nor files.
    """
    message = ModelInferRequest(model_name=model, model_version=version, id=request_id)
    _add_images(message, images)
    for name in outputs or ():
        output = message.outputs.add(name=name)
        if isinstance(outputs, Mapping) and (place := outputs[name]) is not None:
            place.write_to(output)
    for name, value in parameters.items():
        if value is not None:
            write_parameter(message.parameters, name, value)
    return message


def _add_images(message: ModelInferRequest, images: Images) -> None:
    if isinstance(images, SharedImages):
        images.place.write_to(message.inputs.add(name=IMAGES, datatype="UINT8", shape=images.array.shape))
        return
    if isinstance(images, np.ndarray):
        images_BHWC = images[None] if images.ndim == 3 else images
        if images_BHWC.dtype != np.uint8 or images_BHWC.ndim != 4:
            raise InvalidRequestError(
                IMAGES, f"{images.dtype} {list(images.shape)}", "uint8 [n, height, width, channels]"
            )
        message.inputs.add(name=IMAGES, datatype="UINT8", shape=images_BHWC.shape)
        message.raw_input_contents.append(images_BHWC.tobytes())
        return
    files = [images] if isinstance(images, bytes) else images
    kinds = {type(file) for file in files}
    if kinds - {bytes}:
        strangers = sorted(kind.__name__ for kind in kinds - {bytes})
        raise InvalidRequestError(ENCODED, f"elements of type {strangers[0]}", "bytes: JPEG or PNG files")
    message.inputs.add(name=ENCODED, datatype="BYTES", shape=[len(files)])
    message.raw_input_contents.append(pack_bytes(files))


def decode_prediction(message: ModelInferResponse, outputs: Outputs | None = None) -> Prediction:
    """Read an answer.

    Args:
        message: the answer.
        outputs: of the request, where some go to shared memory; they are copied from there.

    Raises:
        RemoteError: it does not follow the protocol.
    """
    try:
        arrays = {
            output.name: _array(output.name, output.datatype, tuple(output.shape), _shared(output, outputs) or raw)
            for output, raw in zip(message.outputs, message.raw_output_contents, strict=True)
        }
        return Prediction(
            model_name=message.model_name,
            model_version=message.model_version,
            policy=message.parameters["policy"].string_param,
            certified=message.parameters["certified"].bool_param,
            **arrays,
        )
    except (ValueError, LookupError, TypeError, InvalidRequestError) as error:
        raise RemoteError("UNKNOWN", f"the answer does not follow the protocol: {error}") from error


def _shared(output: ModelInferResponse.InferOutputTensor, outputs: Outputs | None) -> bytes | None:
    """Copy an output's contents from shared memory; None where they are in the message."""
    if REGION not in output.parameters:
        return None
    place = outputs[output.name] if isinstance(outputs, Mapping) else None
    if place is None:
        raise ValueError(f"{output.name} is in shared memory, which this client did not ask for")
    return place.read(output.parameters[BYTE_SIZE].int64_param)


def _array(name: str, datatype: str, shape: tuple[int, ...], raw: bytes) -> Any:
    if datatype == "BYTES":
        return tuple(ExitReason[element.decode()] for element in unpack_bytes(name, raw, shape[0]))
    return np.frombuffer(raw, dtype=_DTYPES[datatype]).reshape(shape)

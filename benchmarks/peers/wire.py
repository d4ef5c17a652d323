"""What travels between the load generator and each peer: requests encoded beforehand, answers decoded afterwards."""
# Shapes: B images of a request, K classes, HWC image.

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, assert_never

import numpy as np
from google.protobuf.wrappers_pb2 import BytesValue

from cascade_serve.core.arrays import FloatArray, ImageArray, IntArray
from cascade_serve.rpc.stubs import grpc_service_pb2 as pb

Call = Callable[[bytes], bytes]
"""One call over one connection: serialised request in, serialised answer out."""

_INFER = "/inference.GRPCInferenceService/ModelInfer"
MODEL = "cascade"


class WireName(StrEnum):
    """A way to ask."""

    OPEN_INFERENCE = "open inference protocol"
    """UINT8 tensor in; label and confidence out."""
    OPEN_INFERENCE_BYTES = "open inference protocol, bytes"
    """The same with an element of BYTES an image."""
    IN_CLIENT = "open inference protocol, cascade in the client"
    """Each member is a model of its own; the client decides."""
    BYTES = "bytes"
    """No schema: pixels in, labels and confidences out."""
    WRAPPED_BYTES = "protobuf BytesValue"
    """The same, wrapped."""


class Wire(Protocol):
    """One way to ask."""

    @property
    def path(self) -> str:
        """The gRPC method."""
        ...

    def encode(self, images_BHWC: ImageArray) -> bytes:
        """Serialise a request."""
        ...

    def ask(self, call: Call, request: bytes) -> bytes:
        """Ask, in as many calls as it takes; the answer is kept as it is."""
        ...

    def labels(self, answer: bytes) -> IntArray:
        """Read the labels, int64 [B], out of an answer."""
        ...


def make_wire(name: WireName, threshold: float, model: str = MODEL) -> Wire:
    """Build a way to ask.

    Args:
        name: which.
        threshold: of the cascade, where the client decides.
        model: that is asked, where the protocol names one.
    """
    match name:
        case WireName.OPEN_INFERENCE:
            return OpenInference(model)
        case WireName.OPEN_INFERENCE_BYTES:
            return OpenInferenceBytes(model)
        case WireName.IN_CLIENT:
            return CascadeInClient(threshold)
        case WireName.BYTES:
            return PlainBytes()
        case WireName.WRAPPED_BYTES:
            return WrappedBytes()
        case _:
            assert_never(name)


@dataclass(frozen=True)
class OpenInference:
    """A UINT8 tensor in."""

    model: str
    path: str = _INFER

    def encode(self, images_BHWC: ImageArray) -> bytes:
        """Serialise a request for labels and confidences."""
        return _request(self.model, images_BHWC, ("label", "confidence"))

    def ask(self, call: Call, request: bytes) -> bytes:
        """Make one call."""
        return call(request)

    def labels(self, answer: bytes) -> IntArray:
        """Read the output ``label``, raw or typed."""
        message = pb.ModelInferResponse.FromString(answer)
        position = [output.name for output in message.outputs].index("label")
        if message.raw_output_contents:
            return np.frombuffer(message.raw_output_contents[position], np.int64)
        return np.array(message.outputs[position].contents.int64_contents, np.int64)


@dataclass(frozen=True)
class OpenInferenceBytes(OpenInference):
    """An element of BYTES an image in."""

    def encode(self, images_BHWC: ImageArray) -> bytes:
        """Serialise a request for labels and confidences."""
        request = pb.ModelInferRequest(model_name=self.model)
        request.inputs.add(name="images", datatype="BYTES", shape=[len(images_BHWC)])
        elements = [image_HWC.tobytes() for image_HWC in images_BHWC]
        request.raw_input_contents.append(b"".join(struct.pack("<I", len(each)) + each for each in elements))
        return request.SerializeToString()


@dataclass(frozen=True)
class CascadeInClient:
    """Two models; the client asks the second about the rows of which the first is not sure."""

    threshold: float
    path: str = _INFER

    def encode(self, images_BHWC: ImageArray) -> bytes:
        """Serialise the request for the first member."""
        return _request("member0", images_BHWC, ("probabilities",))

    def ask(self, call: Call, request: bytes) -> bytes:
        """Make one call, or two; give the labels."""
        mean_BK = _probabilities(call(request))
        staying = np.flatnonzero(mean_BK.max(axis=1) < self.threshold)
        if len(staying):
            message = pb.ModelInferRequest.FromString(request)
            message.model_name = "member1"
            shape = message.inputs[0].shape
            if len(staying) < len(mean_BK):
                images_BP = np.frombuffer(message.raw_input_contents[0], np.uint8).reshape(len(mean_BK), -1)
                message.raw_input_contents[0] = images_BP[staying].tobytes()
                shape[0] = len(staying)
            more_BK = _probabilities(call(message.SerializeToString()))
            mean_BK = mean_BK.copy()
            mean_BK[staying] += (more_BK - mean_BK[staying]) / np.float32(2)
        labels_B: IntArray = mean_BK.argmax(axis=1).astype(np.int64)
        return labels_B.tobytes()

    def labels(self, answer: bytes) -> IntArray:
        """Read what :meth:`ask` gave."""
        return np.frombuffer(answer, np.int64)


@dataclass(frozen=True)
class PlainBytes:
    """Pixels in; labels int64 [B], then confidences float32 [B], out."""

    path: str = "/peers.Plain/Classify"

    def encode(self, images_BHWC: ImageArray) -> bytes:
        """Give the pixels."""
        return images_BHWC.tobytes()

    def ask(self, call: Call, request: bytes) -> bytes:
        """Make one call."""
        return call(request)

    def labels(self, answer: bytes) -> IntArray:
        """Read the first two thirds."""
        return np.frombuffer(answer, np.int64, count=len(answer) // 12)


@dataclass(frozen=True)
class WrappedBytes(PlainBytes):
    """The same in protobuf's BytesValue."""

    path: str = "/peers.Ray/Classify"

    def encode(self, images_BHWC: ImageArray) -> bytes:
        """Wrap the pixels."""
        return BytesValue(value=images_BHWC.tobytes()).SerializeToString()

    def labels(self, answer: bytes) -> IntArray:
        """Unwrap the answer."""
        return super().labels(BytesValue.FromString(answer).value)


def _request(model: str, images_BHWC: ImageArray, outputs: tuple[str, ...]) -> bytes:
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[images_BHWC.tobytes()])
    request.inputs.add(name="images", datatype="UINT8", shape=images_BHWC.shape)
    for output in outputs:
        request.outputs.add(name=output)
    return request.SerializeToString()


def _probabilities(answer: bytes) -> FloatArray:
    message = pb.ModelInferResponse.FromString(answer)
    probabilities_BK: FloatArray = np.frombuffer(message.raw_output_contents[0], np.float32)
    return probabilities_BK.reshape(tuple(message.outputs[0].shape))

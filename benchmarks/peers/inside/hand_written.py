"""The cascade as one writes it by hand around an engine: what every peer runs, in its own environment.

Only numpy and the engine are imported, so that the file can be copied beside a Triton model.
"""
# Shapes: B images of a request, K classes, HWC image.

import json
import os
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SETTINGS = "CASCADE_PEER_SETTINGS"
"""Environment variable with the settings, as JSON."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a peer serves, and how.

    Attributes:
        graphs: an ONNX file a member (uint8 [B, H, W, C] in, float32 logits [B, K] out), in the order of the stages.
        threshold: a row whose largest mean probability is at least this leaves after the first stage.
        engine: ``onnxruntime`` or ``openvino``.
        precision: ``fp32``, ``bf16`` or ``int8``.
        workers: as many as cores.
        image_shape: [H, W, C].
        port: where gRPC listens.
    """

    graphs: list[str]
    threshold: float
    engine: str
    precision: str
    workers: int
    image_shape: list[int]
    port: int


def read_settings() -> Settings:
    """Read the settings that the benchmark put into the environment."""
    return Settings(**json.loads(os.environ[SETTINGS]))


class Member:
    """One network; may be called from many threads."""

    def __init__(self, graph: str, settings: Settings) -> None:
        self._engine: _OnnxRuntime | _OpenVino
        if settings.engine == "onnxruntime":
            self._engine = _OnnxRuntime(graph)
        else:
            self._engine = _OpenVino(graph, settings)

    def probabilities(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Give float32 [B, K]."""
        logits_BK = self._engine.logits(images_BHWC)
        powers_BK = np.exp(logits_BK - logits_BK.max(axis=1, keepdims=True))
        probabilities_BK: NDArray[np.float32] = powers_BK / powers_BK.sum(axis=1, keepdims=True)
        return probabilities_BK


class Cascade:
    """All members in one process; may be called from many threads."""

    def __init__(self, settings: Settings) -> None:
        self.image_shape = settings.image_shape
        self._threshold = settings.threshold
        self._members = [Member(graph, settings) for graph in settings.graphs]

    def answer(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Give the mean probabilities of the stages that each row ran, float32 [B, K]."""
        mean_BK = self._members[0].probabilities(images_BHWC)
        staying = np.arange(len(mean_BK))
        for stage, member in enumerate(self._members[1:], start=1):
            staying = staying[mean_BK[staying].max(axis=1) < self._threshold]
            if len(staying) == 0:
                break
            more_BK = member.probabilities(images_BHWC[staying])
            mean_BK[staying] += (more_BK - mean_BK[staying]) / np.float32(stage + 1)
        return mean_BK


def pack(mean_BK: NDArray[np.float32]) -> bytes:
    """Give an answer without a schema: labels int64 [B], then confidences float32 [B]."""
    return bytes(mean_BK.argmax(axis=1).tobytes() + mean_BK.max(axis=1).tobytes())


class _OnnxRuntime:
    """One session, whose runs may overlap."""

    def __init__(self, graph: str) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def logits(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits_BK: NDArray[np.float32] = self._session.run(["logits"], {"images": images_BHWC})[0]
        return logits_BK


class _OpenVino:
    """One compiled model with a stream a worker; each thread has an inference request of its own."""

    def __init__(self, graph: str, settings: Settings) -> None:
        import openvino as ov

        # Left alone, OpenVINO computes an fp32 graph in bf16 where the processor can.
        hint = "bf16" if settings.precision == "bf16" else "f32"
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": settings.workers,
            "NUM_STREAMS": settings.workers,
        }
        self._compiled = ov.Core().compile_model(graph, "CPU", options)
        self._requests = threading.local()

    def logits(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        request = getattr(self._requests, "own", None)
        if request is None:
            request = self._requests.own = self._compiled.create_infer_request()
        outputs = request.infer([images_BHWC], share_inputs=True)
        logits_BK: NDArray[np.float32] = outputs[0]
        return logits_BK

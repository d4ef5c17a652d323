"""A member's graph, ``uint8 images [B, H, W, C] → float32 logits [B, K]``: run it, sign it with its card, write it."""
# Shapes: B rows, K classes, HWC image.

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors

from model_zoo.card import METADATA_KEY, AgreementCard, Card, InputCard, Precision, TaskCard
from model_zoo.errors import ExportError
from model_zoo.flops import GraphCost

INPUT_NAME = "images"
OUTPUT_NAME = "logits"
BATCH_NAME = "batch"
MAX_GRAPH_BYTES = 2**31 - 1
"""What one protobuf file can hold; models above it are refused."""

AGREEMENT_TOLERANCE = 1e-3
"""How far logits may differ, relative to their scale (see :func:`logit_scale`)."""
AGREEMENT_IMAGES = 16
"""Random images that logits are compared on."""
_BATCHES = (1, 3)
"""Batches that some of them run in again: an odd one tells a graph that has the batch of its example baked in."""

RUNTIME_ERRORS = (
    runtime_errors.EPFail,
    runtime_errors.Fail,
    runtime_errors.InvalidArgument,
    runtime_errors.InvalidGraph,
    runtime_errors.InvalidProtobuf,
    runtime_errors.NoSuchFile,
    runtime_errors.NotImplemented,
    runtime_errors.RuntimeException,
)
"""What ONNX Runtime raises; its errors have no root of their own."""


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """A graph that keeps the zoo's contract.

    Attributes:
        graph: uint8 ``images`` [B, H, W, C] in, float32 ``logits`` [B, K] out.
        input: what its preamble does.
        cost: per image.
        agreement: with the source.
        precision: of its weights and arithmetic.
    """

    graph: ModelProto
    input: InputCard
    cost: GraphCost
    agreement: AgreementCard
    precision: Precision = "fp32"


class GraphSession:
    """A graph loaded into ONNX Runtime on the CPU.

    Args:
        graph: an ONNX model.
        threads: inside one run; 0 leaves it to ONNX Runtime.

    Raises:
        ExportError: ONNX Runtime can't load it.
    """

    def __init__(self, graph: ModelProto, *, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Warnings are about the graph's own oddities; what matters is raised.
        options.log_severity_level = 3
        try:
            data = serialize(graph)
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except RUNTIME_ERRORS as error:
            raise ExportError(f"ONNX Runtime can't load the graph: {error}") from error

    def run(self, images: NDArray[np.generic]) -> list[NDArray[np.generic]]:
        """Run a graph of one input, and give all outputs.

        Raises:
            ExportError: the run fails.
        """
        name = self._session.get_inputs()[0].name
        try:
            outputs: list[NDArray[np.generic]] = self._session.run(None, {name: images})
        except RUNTIME_ERRORS as error:
            raise ExportError(f"ONNX Runtime can't run the graph on {images.shape}: {error}") from error
        return outputs

    def logits(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run a member's graph on uint8 images [B, H, W, C] and give its logits float32 [B, K].

        Raises:
            ExportError: the run fails, or gives something else.
        """
        output = self.run(images_BHWC)[0]
        if output.ndim != 2 or output.shape[0] != images_BHWC.shape[0] or output.dtype != np.float32:
            raise ExportError(
                f"{OUTPUT_NAME}: got {output.dtype} {output.shape}; must be float32 [{images_BHWC.shape[0]}, classes]"
            )
        return output.astype(np.float32, copy=False)


def random_images(task: TaskCard, batch_size: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Draw uint8 images [B, H, W, C] for checks: noise under a random brightness, so that logits vary."""
    generator = np.random.default_rng(seed)
    noise_BHWC = generator.random((batch_size, task.height, task.width, task.channels))
    brightness_B111 = generator.random((batch_size, 1, 1, 1))
    return (255 * (0.5 * noise_BHWC + 0.5 * brightness_B111)).astype(np.uint8)


def logit_scale(logits_BK: NDArray[np.float32]) -> float:
    """Give the largest absolute logit, the scale that differences are compared with; at least 1e-6."""
    return max(float(np.abs(logits_BK).max()), 1e-6)


def largest_difference(source_BK: NDArray[np.float32], graph_BK: NDArray[np.float32], what: str) -> float:
    """Compare logits with what they should be.

    Args:
        source_BK: float32 [B, K].
        graph_BK: float32 [B, K].
        what: is compared, for the message.

    Returns:
        the largest absolute difference.

    Raises:
        ExportError: shapes differ, a value is not finite, or the difference passes ``AGREEMENT_TOLERANCE``.
    """
    if source_BK.shape != graph_BK.shape:
        raise ExportError(f"{what}: got logits of shape {graph_BK.shape}; must be {source_BK.shape}")
    if not (np.isfinite(source_BK).all() and np.isfinite(graph_BK).all()):
        raise ExportError(f"{what}: got logits that are not finite on random images; the weights may be broken")
    difference = float(np.abs(source_BK - graph_BK).max())
    limit = AGREEMENT_TOLERANCE * logit_scale(source_BK)
    if difference > limit:
        raise ExportError(f"{what}: got a logit difference of {difference:.3g}; must be at most {limit:.3g}")
    return difference


def check_batch_invariance(
    session: GraphSession, images_BHWC: NDArray[np.uint8], logits_BK: NDArray[np.float32]
) -> None:
    """Run the first images again, alone and in threes, and compare.

    Args:
        session: the graph.
        images_BHWC: uint8 [B, H, W, C], at least 3.
        logits_BK: float32 [B, K], what the graph gave for all of them in one batch.

    Raises:
        ExportError: logits differ, so rows of one batch touch each other.
    """
    for batch in _BATCHES:
        parts = [session.logits(images_BHWC[start : start + batch]) for start in range(0, max(_BATCHES), batch)]
        again_BK = np.concatenate(parts)
        largest_difference(
            logits_BK[: len(again_BK)], again_BK, f"rows in batches of {batch} against a batch of {len(images_BHWC)}"
        )


def strip_metadata(graph: GraphProto) -> None:
    """Drop what exporters note on nodes and values: source lines and paths, which are long and private."""
    graph.ClearField("metadata_props")
    graph.ClearField("doc_string")
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for node in graph.node:
        for attribute in node.attribute:
            # NOTE: touching an unset graph would set it.
            if attribute.type == AttributeProto.GRAPH:
                strip_metadata(attribute.g)
            for body in attribute.graphs:
                strip_metadata(body)


def write_graph(model: ModelProto, card: Card, path: Path) -> None:
    """Write the graph with its card inside; the card's ``files`` stay out, as a file can't hold its own checksum.

    Raises:
        ExportError: the graph is larger than a file can hold.
    """
    signed = ModelProto()
    signed.CopyFrom(model)
    kept = [entry for entry in signed.metadata_props if entry.key != METADATA_KEY]
    signed.ClearField("metadata_props")
    signed.metadata_props.extend(kept)
    text = card.model_copy(update={"files": {}}).to_json()
    signed.metadata_props.append(onnx.StringStringEntryProto(key=METADATA_KEY, value=text))
    path.write_bytes(serialize(signed))


def serialize(model: ModelProto) -> bytes:
    """Turn a model into bytes.

    Raises:
        ExportError: it is larger than a file can hold.
    """
    size = model.ByteSize()
    if not 0 <= size <= MAX_GRAPH_BYTES:
        raise ExportError(f"graph {model.graph.name!r}: got {size} bytes; must be at most {MAX_GRAPH_BYTES} (2 GiB)")
    data: bytes = model.SerializeToString()
    return data

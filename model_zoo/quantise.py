"""A member's graph in int8: static quantisation by ONNX Runtime's tool, ranges taken from training images.

Weights are int8, one scale a channel; activations are uint8, one scale a tensor, written as pairs of QuantizeLinear and
DequantizeLinear (QDQ), which an engine fuses into integer kernels. What stands before the first contraction and behind
the last keeps float32, and so do the outputs of matrix products: logits are not rounded to 256 values.
"""
# Shapes: N images, B images of a batch, HWC image.

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from model_zoo.contractions import find_stretch, tidy
from model_zoo.errors import ExportError
from model_zoo.graph import INPUT_NAME, RUNTIME_ERRORS, serialize, strip_metadata
from model_zoo.opset import raise_opset

TOOL = "onnxruntime.quantization"

_OPERATORS = (
    "Add", "AveragePool", "Clip", "Concat", "Conv", "ConvTranspose", "Flatten", "Gemm", "GlobalAveragePool",
    "LeakyRelu", "MatMul", "MaxPool", "Mul", "Pad", "Relu", "Reshape", "Sigmoid", "Slice", "Split",
    "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""What may compute in int8. Softmax and normalisation by statistics are left out: 256 values are too few for them."""
_FLOAT_OUTPUTS = ("Gemm", "MatMul")
_PREPARED = {"key": "onnx.quant.pre_process", "value": "onnxruntime.quant"}
_MIN_OPSET = 13
"""The first whose DequantizeLinear has a scale for each channel."""


def to_int8(model: ModelProto, batches: Iterator[NDArray[np.uint8]]) -> ModelProto:
    """Quantise a graph.

    Args:
        model: float32 inside; input uint8 ``images`` [B, H, W, C], output float32 ``logits`` [B, K].
        batches: uint8 [B, H, W, C], such as the network was trained on; a tensor's range is that seen over all.

    Returns:
        a new model of the same input and output.

    Raises:
        ExportError: there is nothing to quantise, no image, or the tool can't do it.
    """
    raised = raise_opset(model, _MIN_OPSET, "to be quantised channel by channel")
    with tempfile.TemporaryDirectory(prefix="cascade-serve-") as folder:
        fused = _fuse(raised, Path(folder) / "fused.onnx")
        try:
            quantised = _quantise(tidy(fused), _Images(batches), Path(folder) / "quantised.onnx")
        except (*RUNTIME_ERRORS, ValueError, TypeError, KeyError, RuntimeError) as error:
            raise ExportError(f"ONNX Runtime's tool can't quantise the graph: {error}") from error
    return _keep_origin(quantised, model)


def _fuse(model: ModelProto, path: Path) -> ModelProto:
    """Let ONNX Runtime fold constants, and normalisation into convolutions: a scale for each would be lost between."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = path.as_posix()
    # Transposes would move out of the preamble; shared constants would tie weights that quantise differently.
    left_out = ["TransposeOptimizer", "ConstantSharing"]
    try:
        onnxruntime.InferenceSession(
            serialize(model), options, providers=["CPUExecutionProvider"], disabled_optimizers=left_out
        )
    except RUNTIME_ERRORS as error:
        raise ExportError(f"ONNX Runtime can't load the graph: {error}") from error
    return onnx.load(path)


class _Images(CalibrationDataReader):  # type: ignore[misc]  # the tool is untyped
    """Feeds batches to the tool."""

    def __init__(self, batches: Iterator[NDArray[np.uint8]]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Give the next batch; None ends the data."""
        batch_BHWC = next(self._batches, None)
        return None if batch_BHWC is None else {INPUT_NAME: batch_BHWC}


def _quantise(model: ModelProto, images: CalibrationDataReader, path: Path) -> ModelProto:
    stretch = find_stretch(model.graph)
    outside = [node.name for position, node in enumerate(model.graph.node) if position not in stretch]
    # Without the mark the tool warns that its own preparation, which is done here, be done.
    model.metadata_props.append(onnx.StringStringEntryProto(**_PREPARED))
    quantize_static(
        model,
        path,
        images,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(_OPERATORS),
        nodes_to_exclude=outside,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"OpTypesToExcludeOutputQuantization": list(_FLOAT_OUTPUTS)},
    )
    return onnx.load(path)


def _keep_origin(quantised: ModelProto, model: ModelProto) -> ModelProto:
    """Put back what the file said of itself, and drop what the tools noted: their marks, and domains without nodes."""
    for name in ("metadata_props", "producer_name", "producer_version"):
        quantised.ClearField(name)
    quantised.metadata_props.extend(model.metadata_props)
    quantised.producer_name, quantised.producer_version = model.producer_name, model.producer_version
    domains = {node.domain for node in quantised.graph.node} | {""}
    kept = [entry for entry in quantised.opset_import if entry.domain in domains]
    del quantised.opset_import[:]
    quantised.opset_import.extend(kept)
    strip_metadata(quantised.graph)
    return quantised

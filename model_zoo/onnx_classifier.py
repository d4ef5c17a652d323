"""A user's own ONNX classifier, wrapped into the zoo's contract without any torch."""
# Shapes: B rows, K classes, C channels, H height, W width.

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from model_zoo.batching import make_batch_dynamic
from model_zoo.card import AgreementCard, InputCard, Precision, TaskCard
from model_zoo.errors import ExportError
from model_zoo.flops import count_model
from model_zoo.graph import (
    AGREEMENT_IMAGES,
    ExportedModel,
    GraphSession,
    check_batch_invariance,
    largest_difference,
    random_images,
    strip_metadata,
)
from model_zoo.opset import raise_opset
from model_zoo.preamble import GraphView, Preamble, add_output, add_preamble

Layout = Literal["nchw", "nhwc"]

_PREFIX = "classifier/"
_ANTIALIAS_OPSET = 18
_ANTIALIAS_PURPOSE = "to resize images inside the graph, unless --task-size makes them as large as its input"
_MIN_IR_VERSION = 8
_NUMPY = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
    TensorProto.UINT8: np.uint8,
}


@dataclass(frozen=True, kw_only=True)
class OnnxClassifier:
    """A user's graph, read and checked, with a dynamic batch.

    Attributes:
        model: as it was read.
        batched: the same with all names prefixed and a dynamic batch.
        layout: of its input.
        channels: of its input.
        size: height and width that it sees; None where its graph leaves them open and none was asked for.
    """

    model: ModelProto
    batched: ModelProto
    layout: Layout
    channels: int
    size: tuple[int, int] | None

    def adopt(self, task: TaskCard, preamble: Preamble, *, from_probabilities: bool = False) -> ExportedModel:
        """Put the preamble in front and logits behind, and check the result against the original.

        Args:
            task: image size and classes.
            preamble: how pixels become its input.
            from_probabilities: its output is probabilities, of which the logarithm is taken.

        Raises:
            ExportError: channels, classes or options don't fit, ONNX Runtime can't run it, its output is not what is
                said, or rows of a batch touch each other.
            FlopsError: its cost can't be counted.
        """
        if task.channels not in (self.channels, 1):
            raise ExportError(f"channels: the graph takes {self.channels}; the task has {task.channels}")
        size = self.size or (task.height, task.width)
        if size != (task.height, task.width):
            graph = raise_opset(self.batched, _ANTIALIAS_OPSET, _ANTIALIAS_PURPOSE)
        else:
            graph = ModelProto()
            graph.CopyFrom(self.batched)
        mean, std = preamble.numbers(self.channels)
        source_name = graph.graph.input[0].name
        view = GraphView(layout=self.layout, channels=self.channels, size=size)
        add_preamble(graph, task, view, preamble)
        add_output(graph, from_probabilities=from_probabilities)
        strip_metadata(graph.graph)
        difference = self._check(graph, source_name, task, from_probabilities=from_probabilities)
        return ExportedModel(
            graph=graph,
            input=InputCard(height=size[0], width=size[1], mean=mean, std=std),
            cost=count_model(graph),
            agreement=AgreementCard(max_logit_difference=difference, n=AGREEMENT_IMAGES),
            precision=_precision(graph),
        )

    def _check(self, graph: ModelProto, source_name: str, task: TaskCard, *, from_probabilities: bool) -> float:
        """Run the preamble's result through the original and compare; give the largest difference."""
        probe = ModelProto()
        probe.CopyFrom(graph)
        probe.graph.output.append(helper.make_empty_tensor_value_info(source_name))
        images_BHWC = random_images(task, AGREEMENT_IMAGES)
        output_BK, inputs = self._run_batch(probe, images_BHWC)
        if output_BK.shape != (AGREEMENT_IMAGES, len(task.classes)):
            raise ExportError(
                f"the graph's output: got shape {list(output_BK.shape)} for {AGREEMENT_IMAGES} images;"
                f" must be {[AGREEMENT_IMAGES, len(task.classes)]}"
            )
        logits_BK = output_BK.astype(np.float32)
        source_BK = self._run_source(inputs).astype(np.float32).reshape(AGREEMENT_IMAGES, -1)
        _check_meaning(source_BK, from_probabilities=from_probabilities)
        if from_probabilities:
            source_BK = np.log(np.maximum(source_BK, np.finfo(np.float32).tiny))
        difference = largest_difference(source_BK, logits_BK, "the wrapped graph against its source")
        check_batch_invariance(GraphSession(graph), images_BHWC, logits_BK)
        return difference

    def _run_batch(self, probe: ModelProto, images_BHWC: np.ndarray) -> list[np.ndarray]:
        dim = self.model.graph.input[0].type.tensor_type.shape.dim[0]
        try:
            return GraphSession(probe).run(images_BHWC)
        except ExportError as error:
            if not dim.HasField("dim_value"):
                raise
            raise ExportError(
                f"batch: the graph is made for {dim.dim_value} images and can't be made dynamic; export it again with"
                f" a dynamic batch ({error})"
            ) from error

    def _run_source(self, inputs: np.ndarray) -> np.ndarray:
        """Run the original on a member's inputs, in the batch that it was made for."""
        dim = self.model.graph.input[0].type.tensor_type.shape.dim[0]
        batch = max(1, dim.dim_value)
        session = GraphSession(self.model)
        whole = np.resize(inputs, (-(-len(inputs) // batch) * batch, *inputs.shape[1:]))
        outputs = [session.run(whole[start : start + batch])[0] for start in range(0, len(whole), batch)]
        return np.concatenate(outputs)[: len(inputs)]


def read_classifier(path: Path, *, layout: str = "auto", image_size: int | None = None) -> OnnxClassifier:
    """Read a user's ONNX classifier.

    Args:
        path: the file; weights in external files beside it are read too.
        layout: ``nchw``, ``nhwc``, or ``auto``, which finds the axis of 1 or 3 channels.
        image_size: height and width to show it; only where its graph leaves them open.

    Raises:
        ExportError: it is no ONNX classifier of one image input and one output, its layout can't be told, its size is
            another one, or its batch can't be made dynamic.
    """
    model = _read(path)
    value = _image_input(model, path)
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]
    chosen = _choose_layout(layout, dims, path)
    channels, height, width = dims[1:] if chosen == "nchw" else (dims[3], dims[1], dims[2])
    if channels not in (1, 3):
        raise ExportError(f"{path}: channels: got {channels} with layout {chosen}; must be 1 or 3")
    for side, fixed in (("height", height), ("width", width)):
        if image_size is not None and fixed not in (None, image_size):
            raise ExportError(f"{path}: {side}: got --image-size {image_size}; must be {fixed}, which its graph fixes")
    size = (height or image_size, width or image_size)
    batched = make_batch_dynamic(onnx.compose.add_prefix(model, _PREFIX))
    return OnnxClassifier(
        model=model,
        batched=batched,
        layout=chosen,
        channels=channels,
        size=(size[0], size[1]) if size[0] is not None and size[1] is not None else None,
    )


def _read(path: Path) -> ModelProto:
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror or error}") from error
    except (onnx.checker.ValidationError, ValueError, RuntimeError, DecodeError) as error:
        raise ExportError(f"{path}: not a valid ONNX file: {error}") from error
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    # Old files list weights as inputs too, which the first versions of the format asked for.
    model.ir_version = max(model.ir_version, _MIN_IR_VERSION)
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for kind, values in (("inputs", inputs), ("outputs", list(model.graph.output))):
        if len(values) != 1:
            names = [value.name for value in values]
            raise ExportError(f"{path}: {kind}: got {names}; must be one")
    return model


def _image_input(model: ModelProto, path: Path) -> ValueInfoProto:
    value = model.graph.input[0]
    tensor = value.type.tensor_type
    if tensor.elem_type not in _NUMPY:
        name = TensorProto.DataType.Name(tensor.elem_type)
        raise ExportError(f"{path}: input {value.name!r}: got {name}; must be FLOAT, FLOAT16, DOUBLE or UINT8")
    if len(tensor.shape.dim) != 4:
        raise ExportError(f"{path}: input {value.name!r}: got {len(tensor.shape.dim)} dimensions; must be 4")
    return value


def _choose_layout(layout: str, dims: list[int | None], path: Path) -> Layout:
    if layout in ("nchw", "nhwc"):
        return cast("Layout", layout)
    fits: list[Layout] = []
    if dims[1] in (1, 3):
        fits.append("nchw")
    if dims[3] in (1, 3):
        fits.append("nhwc")
    if len(fits) != 1:
        shown = [dim if dim is not None else "?" for dim in dims]
        raise ExportError(f"{path}: layout: can't be told from the input's shape {shown}; say nchw or nhwc")
    return fits[0]


def _check_meaning(output_BK: np.ndarray, *, from_probabilities: bool) -> None:
    sums_B = output_BK.sum(axis=1)
    are_probabilities = bool((output_BK >= 0).all() and np.allclose(sums_B, 1, atol=1e-3))
    if are_probabilities and not from_probabilities and output_BK.shape[1] > 1:
        raise ExportError("the graph's output is probabilities (rows sum to 1); say so with --output probabilities")
    if from_probabilities and not are_probabilities:
        raise ExportError(f"the graph's output is not probabilities: its rows sum to {sums_B.tolist()}; must be 1")


def _precision(model: ModelProto) -> Precision:
    kinds = {node.op_type for node in model.graph.node}
    if kinds & {"QuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}:
        return "int8"
    types = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1}
    if TensorProto.BFLOAT16 in types:
        return "bf16"
    return "fp16" if TensorProto.FLOAT16 in types else "fp32"

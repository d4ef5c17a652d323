"""A small ONNX classifier such as a user might bring, in many forms."""

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

CLASSES = tuple("abcde")
SIZE = 8


def own_classifier(
    *,
    batch: int | str = "n",
    layout: str = "nchw",
    element: int = TensorProto.FLOAT,
    channels: int = 3,
    softmax: bool = False,
    reshape_to: int | None = None,
    opset: int = 13,
    extra_output: bool = False,
    open_size: bool = False,
) -> ModelProto:
    """Make convolution, ReLU, pooling where the size is open, and one linear layer to five classes.

    Args:
        batch: name of the batch, or the number that it is fixed at.
        layout: of the input, ``nchw`` or ``nhwc``.
        element: type of the input; uint8 is scaled inside.
        channels: of the input.
        softmax: end in probabilities.
        reshape_to: flatten by a Reshape that sets the batch to this.
        opset: of the graph.
        extra_output: give the features too.
        open_size: leave height and width open.
    """
    generator = np.random.default_rng(0)
    kernel = generator.standard_normal((4, channels, 3, 3)).astype(np.float32)
    rows = 4 if open_size else 4 * SIZE * SIZE
    matrix = generator.standard_normal((rows, len(CLASSES))).astype(np.float32)
    constants = {"kernel": kernel, "matrix": matrix, "shape": np.array([reshape_to or 0, -1])}
    nodes: list[NodeProto] = []

    def add(op_type: str, *inputs: str, output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op_type, list(inputs), [output], **attributes))
        return output

    last = "x"
    if element != TensorProto.FLOAT:
        last = add("Cast", last, output="float", to=TensorProto.FLOAT)
    if layout == "nhwc":
        last = add("Transpose", last, output="channels_first", perm=[0, 3, 1, 2])
    last = add("Relu", add("Conv", last, "kernel", output="maps", pads=[1] * 4), output="active")
    if open_size:
        last = add("GlobalAveragePool", last, output="pooled")
    last = add("Reshape", last, "shape", output="flat") if reshape_to else add("Flatten", last, output="flat")
    last = add("MatMul", last, "matrix", output="scores")
    if softmax:
        last = add("Softmax", last, output="y", axis=1)
    side: int | str = "side" if open_size else SIZE
    image = [batch, channels, side, side] if layout == "nchw" else [batch, side, side, channels]
    outputs = [helper.make_tensor_value_info(last, TensorProto.FLOAT, [batch, len(CLASSES)])]
    if extra_output:
        outputs.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, [batch, rows]))
    graph = helper.make_graph(
        nodes,
        "own",
        [helper.make_tensor_value_info("x", element, image)],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)

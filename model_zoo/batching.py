"""Make the batch of a user's graph dynamic, where it is fixed."""

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from model_zoo.graph import BATCH_NAME
from model_zoo.shapes import constants_of, infer_for_one_image, shapes_of


def make_batch_dynamic(model: ModelProto) -> ModelProto:
    """Name the batch in a graph's input and output, and free it where reshapes fix it.

    The result may still hold the batch elsewhere, so it must be run on several batches and compared with the source.

    Args:
        model: has one input, whose first dimension is the batch: named, unnamed, or fixed at any number.

    Returns:
        a changed copy.

    Raises:
        FlopsError: the graph's shapes contradict each other.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    dim = copy.graph.input[0].type.tensor_type.shape.dim[0]
    if dim.HasField("dim_value"):
        _free_reshapes(copy, dim.dim_value)
    for value in (copy.graph.input[0], copy.graph.output[0]):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = BATCH_NAME
    # What the exporter noted about shapes inside holds the old batch.
    copy.graph.ClearField("value_info")
    return copy


def _free_reshapes(model: ModelProto, batch: int) -> None:
    """Let reshapes of values that come from the input copy the batch instead of setting it."""
    graph = model.graph
    shapes = shapes_of(infer_for_one_image(model)[0])
    constants = constants_of(graph)
    reached = _reached(graph)
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[0] not in reached or node.input[1] not in constants:
            continue
        target = numpy_helper.to_array(constants[node.input[1]])
        source = shapes.get(node.input[0])
        if len(target) and target[0] == batch and source and source[0] == batch:
            _set_target(graph, node, target)


def _set_target(graph: GraphProto, node: NodeProto, target: np.ndarray) -> None:
    freed = target.copy()
    freed[0] = 0
    name = f"{node.output[0]}/shape"
    graph.initializer.append(numpy_helper.from_array(freed.astype(np.int64), name))
    node.input[1] = name


def _reached(graph: GraphProto) -> set[str]:
    """Name the values that depend on the graph's input."""
    reached = {graph.input[0].name}
    for node in graph.node:
        if reached.intersection(node.input):
            reached.update(node.output)
    return reached

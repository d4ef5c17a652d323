"""Shapes of everything in an ONNX graph for one image, found without its weights."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import InferenceError, infer_shapes

from model_zoo.errors import FlopsError

Shape = tuple[int, ...]

# Above this many elements an initializer is data, not a shape or axis that inference has to read.
_MAX_SHAPE_ELEMENTS = 256
# Attributes of a Constant node that hold plain numbers.
_NUMBERS: dict[str, type[np.generic]] = {
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_float": np.float32,
    "value_floats": np.float32,
}
# Operators that shapes are computed with; all have a reference implementation.
_SHAPE_OPERATORS = (
    "Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Concat", "ConstantOfShape", "Div", "Equal", "Expand",
    "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Greater", "GreaterOrEqual", "Identity", "Less",
    "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "NonZero", "Not", "Or", "Range", "ReduceMax", "ReduceMin",
    "ReduceProd", "ReduceSum", "Reshape", "Round", "ScatterND", "Size", "Slice", "Split", "Sqrt", "Squeeze",
    "Sub", "Tile", "Transpose", "Unsqueeze", "Where",
)  # fmt: skip
# Each pass settles at least one more shape; graphs that compute shapes from shapes take a few.
_MAX_PASSES = 100


def infer_for_one_image(model: ModelProto) -> tuple[GraphProto, int]:
    """Infer the shapes of a graph with its batch bound.

    Args:
        model: all inputs have the batch as their first dimension: named, which is taken as 1, or fixed.

    Returns:
        the graph without large weights (they become inputs), and the batch that it is of.

    Raises:
        FlopsError: inference finds a contradiction, there is no input, or a sparse weight.
    """
    light = _lighten(inline_local_functions(model) if model.functions else model)
    batch = _bind_batch(light.graph)
    for _ in range(_MAX_PASSES):
        try:
            inferred = infer_shapes(light, strict_mode=False, data_prop=True)
        except InferenceError as error:
            raise FlopsError(f"graph {model.graph.name!r}: shape inference: {error}") from error
        if not _fold(light, shapes_of(inferred.graph)):
            break
    return inferred.graph, batch


def shapes_of(graph: GraphProto) -> dict[str, Shape | None]:
    """Name → shape of a graph's values, after inference; None where a dimension is unknown."""
    shapes = {value.name: _value_shape(value) for value in (*graph.input, *graph.output, *graph.value_info)}
    return shapes | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def constants_of(graph: GraphProto) -> dict[str, TensorProto]:
    """Name → value of initializers and of ``Constant`` nodes that hold numbers."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                constants[node.output[0]] = attribute.t
            elif attribute.name in _NUMBERS:
                numbers = np.array(helper.get_attribute_value(attribute), dtype=_NUMBERS[attribute.name])
                constants[node.output[0]] = numpy_helper.from_array(numbers)
    return constants


def _lighten(model: ModelProto) -> ModelProto:
    """Copy a model without its large weights, whose shapes alone matter: they become inputs."""
    light = ModelProto(ir_version=max(model.ir_version, 4))
    light.opset_import.extend(model.opset_import)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.output.extend(model.graph.output)
    weights = {tensor.name for tensor in model.graph.initializer}
    graph.input.extend(value for value in model.graph.input if value.name not in weights)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _MAX_SHAPE_ELEMENTS and not tensor.external_data:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for sparse in model.graph.sparse_initializer:
        raise FlopsError(f"initializer {sparse.values.name!r}: got a sparse tensor; must be dense")
    return light


def _bind_batch(graph: GraphProto) -> int:
    """Set a named batch to 1 in all inputs and outputs, and give the batch that the graph is now of."""
    if not graph.input or not graph.input[0].type.tensor_type.shape.dim:
        raise FlopsError(f"graph {graph.name!r}: got no input with a batch; must have one")
    first = graph.input[0].type.tensor_type.shape.dim[0]
    if first.HasField("dim_value"):
        return max(1, first.dim_value)
    name = first.dim_param
    for value in (*graph.input, *graph.output):
        for position, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param == name if name else position == 0 and not dim.HasField("dim_value"):
                dim.dim_value = 1
    return 1


def _fold(model: ModelProto, shapes: Mapping[str, Shape | None]) -> bool:
    """Replace nodes that compute shapes by their values, where these are known now; tell whether there were any."""
    graph = model.graph
    known = {
        name: numpy_helper.to_array(tensor)
        for name, tensor in constants_of(graph).items()
        if math.prod(tensor.dims) <= _MAX_SHAPE_ELEMENTS and not tensor.external_data
    }
    kept, folded = [], False
    for node in graph.node:
        values = None if node.op_type == "Constant" else _evaluate(node, known, shapes, model)
        if values is None:
            kept.append(node)
            continue
        folded = True
        for name, value in zip(node.output, values, strict=False):
            known[name] = value
            graph.initializer.append(numpy_helper.from_array(value, name))
    if folded:
        del graph.node[:]
        graph.node.extend(kept)
    return folded


def _evaluate(
    node: NodeProto, known: Mapping[str, NDArray[np.generic]], shapes: Mapping[str, Shape | None], model: ModelProto
) -> list[NDArray[np.generic]] | None:
    """Compute a node's outputs if all that it needs is known and small."""
    inputs = [name for name in node.input if name]
    if node.op_type == "Shape":
        shape = shapes.get(inputs[0])
        if shape is None:
            return None
        start, end = (_int(node, name, default) for name, default in (("start", 0), ("end", len(shape))))
        return [np.array(shape[start:end], dtype=np.int64)]
    is_plain = node.domain in ("", "ai.onnx") and node.op_type in _SHAPE_OPERATORS
    sizes = [shapes.get(name) for name in node.output]
    is_small = all(size is None or math.prod(size) <= _MAX_SHAPE_ELEMENTS for size in sizes)
    if not (inputs and is_plain and is_small and all(name in known for name in inputs)):
        return None
    graph = helper.make_graph([node], "node", [], [helper.make_empty_tensor_value_info(name) for name in node.output])
    graph.input.extend(helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(inputs))
    single = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    outputs = ReferenceEvaluator(single).run(None, {name: known[name] for name in inputs})
    return [np.asarray(output) for output in outputs]


def _int(node: NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def _value_shape(value: ValueInfoProto) -> Shape | None:
    if not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None

"""The cost of an ONNX graph, counted after shape inference: two FLOPs a multiply-add, per image, by rule.

Counted are contractions: convolutions, matrix products, Einsum, attention, their quantised kin, and contractions
written element by element (``Mul`` followed by ``ReduceSum``). Additions of biases, activations, normalisation, pooling
and resizing are not, as in the literature on networks' "FLOPs" (which are multiply-adds there).
"""
# Shapes: tuples of int, batch first where there is one.

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from model_zoo.contractions import bodies_of
from model_zoo.errors import FlopsError
from model_zoo.shapes import Shape, constants_of, infer_for_one_image, shapes_of

TOOL = "model_zoo.flops"

_STANDARD_DOMAINS = ("", "ai.onnx")
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True, slots=True)
class _NodeShapes:
    """Looks up the shapes that a node's rule asks for; others may stay unknown."""

    node: NodeProto
    known: Mapping[str, Shape | None]

    def input(self, position: int) -> Shape:
        """Give an input's shape."""
        return self._shape(self.node.input[position])

    def output(self) -> Shape:
        """Give the first output's shape."""
        return self._shape(self.node.output[0])

    def _shape(self, name: str) -> Shape:
        shape = self.known.get(name)
        if shape is None:
            raise FlopsError(f"{_describe(self.node)}: shape of {name!r} is unknown after shape inference")
        return shape


_Rule = Callable[[_NodeShapes], int]


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphCost:
    """What one image costs.

    Attributes:
        flops: two a multiply-add.
        macs: multiply-adds.
        params: elements of the graph's weights; statistics of batch normalisation and lone scalars left out.
    """

    flops: int
    macs: int
    params: int


def count_model(model: ModelProto) -> GraphCost:
    """Count a graph.

    Args:
        model: an ONNX model whose inputs all have the batch as their first dimension, either named, which is taken as
            1, or fixed, which the cost is divided by. All other dimensions are known.

    Returns:
        the cost per image. Of an ``If``'s branches the dearer counts; a quantised graph counts like its float source.

    Raises:
        FlopsError: a shape is unknown, or a node is of a kind that has no rule: a loop or recurrence with contractions
            inside, or an operator outside ONNX's standard.
    """
    graph, batch = infer_for_one_image(model)
    macs = _GraphCounter(graph, {}).count()
    # Rounded up: work that a fixed batch shares must not make an image look cheaper than it is.
    macs = -(-macs // batch)
    return GraphCost(flops=2 * macs, macs=macs, params=_count_params(model.graph))


class _GraphCounter:
    """Counts one graph, and those inside its nodes."""

    def __init__(self, graph: GraphProto, outer: dict[str, Shape | None]) -> None:
        self._graph = graph
        self._shapes = {**outer, **shapes_of(graph)}
        self._sums = {node.input[0]: node for node in graph.node if node.op_type == "ReduceSum"}
        self._constants = constants_of(graph)

    def count(self) -> int:
        """Sum the multiply-adds of all nodes."""
        return sum(self._node_macs(node) for node in self._graph.node)

    def _node_macs(self, node: NodeProto) -> int:
        bodies = list(bodies_of(node))
        if bodies:
            return self._control_flow_macs(node, bodies)
        if node.op_type == "Mul" and node.output[0] in self._sums:
            return self._product_sum_macs(node)
        rule = _RULES.get(node.op_type)
        if node.op_type in _REFUSED or node.domain not in _STANDARD_DOMAINS:
            raise FlopsError(f"{_describe(node)}: no rule counts this operator")
        return 0 if rule is None else rule(_NodeShapes(node, self._shapes))

    def _control_flow_macs(self, node: NodeProto, bodies: Sequence[GraphProto]) -> int:
        macs = [_GraphCounter(body, self._shapes).count() for body in bodies]
        if node.op_type != "If" and any(macs):
            raise FlopsError(f"{_describe(node)}: contractions in a loop, whose number of turns is unknown")
        return max(macs)

    def _product_sum_macs(self, node: NodeProto) -> int:
        """Count ``(a * b).sum(axes)`` where both vary along a summed axis; scaling and squares are no contractions."""
        if node.input[0] == node.input[1]:
            return 0
        shapes = _NodeShapes(node, self._shapes)
        product = shapes.output()
        left, right = (_broadcastable(shapes.input(position), len(product)) for position in (0, 1))
        axes = self._summed_axes(self._sums[node.output[0]], len(product))
        is_contraction = any(left[axis] > 1 and right[axis] > 1 for axis in axes)
        return math.prod(product) if is_contraction else 0

    def _summed_axes(self, node: NodeProto, rank: int) -> list[int]:
        axes = [axis for attribute in node.attribute if attribute.name == "axes" for axis in attribute.ints]
        if len(node.input) > 1 and node.input[1]:
            constant = self._constants.get(node.input[1])
            if constant is None:
                raise FlopsError(f"{_describe(node)}: axes: got a computed value; must be constant")
            axes = numpy_helper.to_array(constant).reshape(-1).tolist()
        return [axis % rank for axis in axes] if axes else list(range(rank))


def _describe(node: NodeProto) -> str:
    domain = f"{node.domain}." if node.domain else ""
    return f"node {node.name or node.output[0]!r} ({domain}{node.op_type})"


def _broadcastable(shape: Shape, rank: int) -> Shape:
    return (1,) * (rank - len(shape)) + shape


def _conv(weight_input: int) -> _Rule:
    def macs(shapes: _NodeShapes) -> int:
        # The weight is [out channels, in channels per group, *kernel].
        return math.prod(shapes.output()) * math.prod(shapes.input(weight_input)[1:])

    return macs


def _conv_transpose(shapes: _NodeShapes) -> int:
    # The weight is [in channels, out channels per group, *kernel]: each input element meets all but the first.
    return math.prod(shapes.input(0)) * math.prod(shapes.input(1)[1:])


def _gemm(shapes: _NodeShapes) -> int:
    inner = shapes.input(0)[0 if _int(shapes.node, "transA") else 1]
    return math.prod(shapes.output()) * inner


def _matmul(shapes: _NodeShapes) -> int:
    return math.prod(shapes.output()) * shapes.input(0)[-1]


def _einsum(shapes: _NodeShapes) -> int:
    equation = next(attribute.s.decode() for attribute in shapes.node.attribute if attribute.name == "equation")
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if len(terms) == 1:
        return 0
    if len(terms) > 2:
        raise FlopsError(
            f"{_describe(shapes.node)}: equation {equation!r}: got {len(terms)} operands; must be at most 2"
        )
    sizes: dict[str, int] = {}
    for position, term in enumerate(terms):
        shape = shapes.input(position)
        for label, size in zip(_expand_ellipsis(term, len(shape)), shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    return math.prod(sizes.values())


def _expand_ellipsis(term: str, rank: int) -> list[str]:
    """Name the dimensions of an operand; those under an ellipsis are numbered from the right, as they broadcast."""
    before, dots, after = term.partition("...")
    hidden = rank - len(before) - len(after) if dots else 0
    return [*before, *(f"...{position}" for position in range(hidden, 0, -1)), *after]


def _attention(shapes: _NodeShapes) -> int:
    """Count the two products of scaled dot-product attention, in ONNX's ``Attention`` (opset 23)."""
    query, key, value = (shapes.input(position) for position in range(3))
    if len(query) == 4:
        batch, heads, queries, size = query
        return batch * heads * queries * key[2] * (size + value[3])
    heads, key_heads = _int(shapes.node, "q_num_heads"), _int(shapes.node, "kv_num_heads")
    batch, queries, width = query
    return batch * queries * key[1] * (width + heads * (value[2] // key_heads))


def _int(node: NodeProto, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


_RULES: dict[str, _Rule] = {
    "Attention": _attention,
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "ConvTranspose": _conv_transpose,
    "DeformConv": _conv(1),
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearConv": _conv(3),
    "QLinearMatMul": _matmul,
}
# Operator → positions of inputs that are quantised weights, and of those that are no weights.
_SPECIAL_INPUTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "BatchNormalization": ((), (3, 4)),
    "ConvInteger": ((1,), ()),
    "DequantizeLinear": ((0,), (1, 2)),
    "MatMulInteger": ((1,), ()),
    "QLinearConv": ((3, 8), (1, 2, 4, 5, 6, 7)),
    "QLinearMatMul": ((3,), (1, 2, 4, 5, 6, 7)),
    "QuantizeLinear": ((), (1, 2)),
    "Resize": ((), (1, 2, 3)),
}
_REFUSED = ("RNN", "GRU", "LSTM", "DFT", "STFT")


def _count_params(graph: GraphProto) -> int:
    """Count the elements of all weights, those of the graphs inside nodes too."""
    uses = {(name, _role(node, position)) for node in graph.node for position, name in enumerate(node.input)}
    bodies = (body for node in graph.node for body in bodies_of(node))
    return sum(_count_params(body) for body in bodies) + sum(
        math.prod(tensor.dims)
        for name, tensor in constants_of(graph).items()
        if tensor.dims
        and (name, "setting") not in uses
        and (tensor.data_type in _FLOATS or (name, "quantised") in uses)
    )


def _role(node: NodeProto, position: int) -> str:
    """Tell statistics, scales, zero points and sizes to resize to ("setting") from weights, float or quantised."""
    quantised, settings = _SPECIAL_INPUTS.get(node.op_type, ((), ()))
    if position in quantised:
        return "quantised"
    return "setting" if position in settings else "weight"

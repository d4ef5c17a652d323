"""Which part of a graph a precision is for: the stretch from its first contractions to its last.

What stands before it (resize, normalisation) and behind it (softmax, the cast to float32) costs next to nothing, and
keeps float32: pixels and logits are what a lower precision would hurt most.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from model_zoo.errors import ExportError

_CONTRACTIONS = ("Attention", "Conv", "ConvTranspose", "DeformConv", "Einsum", "Gemm", "MatMul")


def find_stretch(graph: GraphProto) -> frozenset[int]:
    """Give the positions of the nodes that lie on a way from a contraction to a contraction, these among them.

    Args:
        graph: sorted, so that a node comes after those that feed it.

    Raises:
        ExportError: it holds no contraction outside the bodies of its nodes.
    """
    after = _reach(graph, forward=True)
    before = _reach(graph, forward=False)
    stretch = after & before
    if not stretch:
        raise ExportError(f"graph {graph.name!r}: got no contraction; must have one of {', '.join(_CONTRACTIONS)}")
    return frozenset(stretch)


def _reach(graph: GraphProto, *, forward: bool) -> set[int]:
    """Walk from the contractions along the edges, or against them."""
    positions = range(len(graph.node)) if forward else reversed(range(len(graph.node)))
    reached: set[int] = set()
    values: set[str] = set()
    for position in positions:
        node = graph.node[position]
        sources, targets = (used_by(node), node.output) if forward else (node.output, used_by(node))
        if node.op_type in _CONTRACTIONS or not values.isdisjoint(sources):
            reached.add(position)
            values.update(name for name in targets if name)
    return reached


def used_by(node: NodeProto) -> Iterator[str]:
    """Name what a node takes, and what the graphs inside it take from outside."""
    yield from (name for name in node.input if name)
    for body in bodies_of(node):
        for inner in body.node:
            yield from used_by(inner)
        yield from (value.name for value in body.output)


def bodies_of(node: NodeProto) -> Iterator[GraphProto]:
    """Give the graphs inside a node, such as the branches of an ``If``."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def tidy(model: ModelProto) -> ModelProto:
    """Copy a model so that every node has a name of its own, and constants are initializers."""
    tidied = ModelProto()
    tidied.CopyFrom(model)
    graph = tidied.graph
    nodes = [node for node in graph.node if not _move_constant(node, graph)]
    del graph.node[:]
    graph.node.extend(_name_uniquely(nodes))
    return tidied


def _move_constant(node: NodeProto, graph: GraphProto) -> bool:
    value: TensorProto | None = next(
        (attribute.t for attribute in node.attribute if node.op_type == "Constant" and attribute.name == "value"), None
    )
    if value is None:
        return False
    graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(value), node.output[0]))
    return True


def _name_uniquely(nodes: Iterable[NodeProto]) -> list[NodeProto]:
    named = list(nodes)
    counts = Counter(node.name for node in named)
    for position, node in enumerate(named):
        if not node.name or counts[node.name] > 1:
            node.name = f"{node.op_type}/{position}/{node.name}"
    return named


def types_of(graph: GraphProto) -> dict[str, int]:
    """Name → element type of a graph's values, after shape inference; unknown ones are absent."""
    values = (*graph.input, *graph.output, *graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values if value.type.HasField("tensor_type")}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def attribute_of(node: NodeProto, name: str) -> AttributeProto | None:
    """Find a node's attribute."""
    return next((attribute for attribute in node.attribute if attribute.name == name), None)


def set_attribute(node: NodeProto, name: str, value: object) -> None:
    """Set a node's attribute, whether it is there or not."""
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])

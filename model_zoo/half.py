"""A member's graph in half precision: fp16 between its first and last contractions, the same input and output.

Converters at hand keep some nodes in fp32, but cast to fp16 and back between any two of those, and so round the pixels
on their way through the preamble. Here the preamble stays as it is, and each value that crosses is cast once.
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from model_zoo.contractions import attribute_of, bodies_of, find_stretch, set_attribute, tidy, types_of, used_by
from model_zoo.errors import ExportError

TOOL = "model_zoo.half"

_SUFFIX = "/half"
_FLOAT_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
"""Operator → positions of inputs that are float32 by its definition, or may be: Resize's factors moved in opset 11."""
_SMALLEST, _LARGEST = float(np.finfo(np.float16).smallest_subnormal), float(np.finfo(np.float16).max)


def to_half(model: ModelProto) -> ModelProto:
    """Convert a graph.

    Args:
        model: float32 inside; input uint8 ``images`` [B, H, W, C], output float32 ``logits`` [B, K].

    Returns:
        a new model of the same input and output. Finite weights beyond fp16's range become the largest that it holds,
        as masks need, and those that would vanish the smallest.

    Raises:
        ExportError: there is nothing to convert, or a node's types or body can't be told.
    """
    tidied = tidy(model)
    inferred = onnx.shape_inference.infer_shapes(tidied)
    stretch = find_stretch(tidied.graph)
    _Conversion(tidied.graph, types_of(inferred.graph)).convert(stretch)
    return tidied


class _Conversion:
    """Rewrites a graph: the half of a value ``x`` is called ``x/half``, whichever of the two is made first."""

    def __init__(self, graph: GraphProto, types: dict[str, int]) -> None:
        self._graph = graph
        self._types = types
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._halves: set[str] = set()
        self._nodes: list[NodeProto] = []

    def convert(self, stretch: frozenset[int]) -> None:
        """Convert the nodes at these positions."""
        nodes = list(self._graph.node)
        wanted = {value.name for value in self._graph.output}
        for position, node in enumerate(nodes):
            wanted.update(self._kept_inputs(node) if position in stretch else used_by(node))
        for position, node in enumerate(nodes):
            if position in stretch:
                self._convert_node(node, wanted)
            else:
                self._nodes.append(node)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        del self._graph.value_info[:]
        self._drop_unused_weights()

    def _kept_inputs(self, node: NodeProto) -> list[str]:
        return [node.input[position] for position in _FLOAT_INPUTS.get(node.op_type, ()) if position < len(node.input)]

    def _convert_node(self, node: NodeProto, wanted: set[str]) -> None:
        if any(True for _ in bodies_of(node)):
            raise ExportError(f"node {node.name!r} ({node.op_type}): has a body, which can't be converted to fp16")
        kept = _FLOAT_INPUTS.get(node.op_type, ())
        for position, name in enumerate(node.input):
            if name and position not in kept and self._is_float(name, node):
                node.input[position] = self._half(name)
        floats = [name for name in node.output if name and self._is_float(name, node)]
        _convert_attributes(node)
        self._nodes.append(node)
        for position, name in enumerate(node.output):
            if name not in floats:
                continue
            node.output[position] = name + _SUFFIX
            self._halves.add(name)
            if name in wanted:
                self._cast(name + _SUFFIX, name, TensorProto.FLOAT)

    def _is_float(self, name: str, node: NodeProto) -> bool:
        kind = self._types.get(name, TensorProto.UNDEFINED)
        if kind == TensorProto.UNDEFINED:
            raise ExportError(f"node {node.name!r} ({node.op_type}): type of {name!r} is unknown after inference")
        return kind == TensorProto.FLOAT

    def _half(self, name: str) -> str:
        """Name the half of a value, and make it if nobody has yet."""
        half = name + _SUFFIX
        if name in self._halves:
            return half
        self._halves.add(name)
        if name in self._weights:
            values = _round(numpy_helper.to_array(self._weights[name]))
            self._graph.initializer.append(numpy_helper.from_array(values, half))
        else:
            self._cast(name, half, TensorProto.FLOAT16)
        return half

    def _cast(self, source: str, target: str, to: int) -> None:
        self._nodes.append(helper.make_node("Cast", [source], [target], name=f"{target}/cast", to=to))

    def _drop_unused_weights(self) -> None:
        used = {name for node in self._graph.node for name in used_by(node)}
        used.update(value.name for value in self._graph.output)
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)


def _convert_attributes(node: NodeProto) -> None:
    """Turn float32 into fp16 where a node names its output's type itself."""
    if node.op_type == "ConstantOfShape":
        value = attribute_of(node, "value")
        number = np.zeros(1, dtype=np.float32) if value is None else numpy_helper.to_array(value.t)
        if number.dtype == np.float32:
            set_attribute(node, "value", numpy_helper.from_array(_round(number)))
        return
    for name in ("to", "dtype"):
        attribute = attribute_of(node, name)
        if attribute is not None and attribute.i == TensorProto.FLOAT:
            set_attribute(node, name, int(TensorProto.FLOAT16))


def _round(values: NDArray[np.float32]) -> NDArray[np.float16]:
    limited = np.where(np.isfinite(values), np.clip(values, -_LARGEST, _LARGEST), values)
    is_lost = (limited != 0) & (np.abs(limited) < _SMALLEST)
    return np.where(is_lost, np.copysign(_SMALLEST, limited), limited).astype(np.float16)

"""Which nodes a precision is for: those between the first contractions and the last."""

import pytest
from onnx import TensorProto, helper

from model_zoo.contractions import find_stretch, tidy
from model_zoo.errors import ExportError


def names_of_stretch(*nodes: str) -> list[str]:
    """Give the names of the stretch of nodes written ``output = Operator input ...``."""
    made = []
    for text in nodes:
        output, _, call = text.partition(" = ")
        op_type, *inputs = call.split()
        made.append(helper.make_node(op_type, inputs, [output], name=output))
    graph = helper.make_graph(made, "test", [], [])
    return [made[position].name for position in sorted(find_stretch(graph))]


def test_the_stretch_leaves_out_what_stands_before_and_behind() -> None:
    assert names_of_stretch(
        "scaled = Mul x s", "one = Conv scaled w", "active = Relu one", "two = Gemm active v", "logits = Softmax two"
    ) == ["one", "active", "two"]


def test_ways_around_a_contraction_belong_to_it_only_if_they_lead_to_another() -> None:
    assert names_of_stretch(
        "one = Conv x w",
        "around = MaxPool x",
        "sum = Add one around",
        "aside = Sigmoid one",
        "two = MatMul sum v",
        "y = Add two aside",
    ) == ["one", "sum", "two"]


def test_a_graph_without_contractions_is_refused() -> None:
    with pytest.raises(ExportError, match=r"graph 'test': got no contraction; must have one of .*Conv"):
        names_of_stretch("y = Relu x")


def test_tidying_names_every_node_and_moves_constants() -> None:
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [2.0])
    nodes = [
        helper.make_node("Constant", [], ["two"], value=value),
        helper.make_node("Mul", ["x", "two"], ["a"], name="same"),
        helper.make_node("Mul", ["a", "two"], ["b"], name="same"),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    model = helper.make_model(helper.make_graph(nodes, "test", [], []))
    tidied = tidy(model)
    assert [node.op_type for node in tidied.graph.node] == ["Mul", "Mul", "Relu"]
    assert len({node.name for node in tidied.graph.node} - {""}) == 3
    assert [tensor.name for tensor in tidied.graph.initializer] == ["two"]
    assert [node.op_type for node in model.graph.node] == ["Constant", "Mul", "Mul", "Relu"]

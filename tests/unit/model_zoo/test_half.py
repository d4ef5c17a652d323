"""Half precision: what is converted and what is not, and how near it stays."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from own_classifier import own_classifier

from model_zoo.card import TaskCard
from model_zoo.errors import ExportError
from model_zoo.flops import count_model
from model_zoo.graph import GraphSession, random_images
from model_zoo.half import to_half
from model_zoo.onnx_classifier import read_classifier
from model_zoo.preamble import Preamble

TASK = TaskCard(height=8, width=8, channels=3, classes=tuple("abcde"))
LARGE = TaskCard(height=16, width=16, channels=3, classes=tuple("abcde"))


def adopt(model: ModelProto, folder: Path, task: TaskCard = TASK, *, probabilities: bool = False) -> ModelProto:
    onnx.save(model, folder / "own.onnx")
    preamble = Preamble(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    return read_classifier(folder / "own.onnx").adopt(task, preamble, from_probabilities=probabilities).graph


def compare(source: ModelProto, half: ModelProto, task: TaskCard = TASK) -> float:
    """Give the largest logit difference, relative to the largest logit."""
    images_BHWC = random_images(task, 32)
    source_BK, half_BK = (GraphSession(graph, threads=1).logits(images_BHWC) for graph in (source, half))
    return float(np.abs(source_BK - half_BK).max() / np.abs(source_BK).max())


def test_only_the_stretch_is_converted_and_each_value_is_cast_once(tmp_path: Path) -> None:
    source = adopt(own_classifier(), tmp_path)
    half = to_half(source)
    nodes = [node.op_type for node in half.graph.node]
    preamble = ["Transpose", "Cast", "Mul", "Sub", "Cast"]
    assert nodes == [*preamble, "Cast", "Conv", "Relu", "Flatten", "MatMul", "Cast", "Flatten", "Cast", "Identity"]
    assert [node.SerializeToString() for node in half.graph.node[:5]] == [
        node.SerializeToString() for node in source.graph.node[:5]
    ]
    types = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert {name for name, kind in types.items() if kind == TensorProto.FLOAT16} == {
        "classifier/kernel/half",
        "classifier/matrix/half",
    }
    assert half.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    onnx.checker.check_model(half, full_check=True)
    assert 0 < compare(source, half) < 2e-3
    assert count_model(half) == count_model(source)


@pytest.mark.parametrize("opset", [9, 13, 20])
def test_images_are_resized_in_float32(tmp_path: Path, opset: int) -> None:
    source = adopt(own_classifier(opset=opset), tmp_path, LARGE)
    half = to_half(source)
    position = [node.op_type for node in half.graph.node].index("Resize")
    assert TensorProto.FLOAT16 not in [
        attribute.i for node in half.graph.node[:position] for attribute in node.attribute if attribute.name == "to"
    ]
    assert compare(source, half, LARGE) < 2e-3


def test_logarithms_of_probabilities_are_taken_in_float32(tmp_path: Path) -> None:
    model = own_classifier(softmax=True)
    matrix = next(tensor for tensor in model.graph.initializer if tensor.name == "matrix")
    # Scores so far apart that fp16 would lose all but the first.
    matrix.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(matrix) * 3, "matrix"))
    source = adopt(model, tmp_path, probabilities=True)
    images_BHWC = random_images(TASK, 32)
    source_BK = GraphSession(source, threads=1).logits(images_BHWC)
    assert source_BK.min() < np.log(6e-8)
    assert np.isfinite(GraphSession(to_half(source), threads=1).logits(images_BHWC)).all()
    assert compare(source, to_half(source)) < 1e-2


def graph_between(
    *middle: NodeProto, constants: dict[str, NDArray[np.generic]] | None = None, scale: float = 1.0
) -> ModelProto:
    """Put nodes from ``a`` to ``b`` between two matrix products on [batch, 4]."""
    eye = np.eye(4, dtype=np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "first"], ["a"]),
        *middle,
        helper.make_node("MatMul", ["b", "last"], ["logits"]),
    ]
    values = {"first": eye * scale, "last": eye, **(constants or {})}
    graph = helper.make_graph(
        nodes,
        "between",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(graph: ModelProto) -> NDArray[np.generic]:
    return GraphSession(graph, threads=1).run(np.array([[1, 2, 3, 4]], dtype=np.uint8))[0]


def test_types_that_nodes_name_themselves_follow() -> None:
    graph = graph_between(
        helper.make_node("Shape", ["a"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("Cast", ["shape"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["numbers"], ["five"], keepdims=0),
        helper.make_node("Add", ["zeros", "five"], ["fives"]),
        helper.make_node("Add", ["a", "fives"], ["b"]),
    )
    assert run(to_half(graph)).tolist() == run(graph).tolist() == [[6, 7, 8, 9]]


def test_factors_of_a_resize_stay_float32() -> None:
    graph = graph_between(
        helper.make_node("Unsqueeze", ["a", "axes"], ["wide"]),
        helper.make_node("Resize", ["wide", "", "factors"], ["same"], mode="linear"),
        helper.make_node("Squeeze", ["same", "axes"], ["b"]),
        constants={"axes": np.array([1, 2]), "factors": np.ones(4, dtype=np.float32)},
    )
    half = to_half(graph)
    assert {tensor.name: tensor.data_type for tensor in half.graph.initializer}["factors"] == TensorProto.FLOAT
    assert run(half).tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(("op_type", "opset"), [("Upsample", 9), ("Resize", 10)])
def test_factors_of_older_resizes_stay_float32_too(op_type: str, opset: int) -> None:
    graph = graph_between(
        helper.make_node(op_type, ["a", "factors"], ["b"], mode="nearest"),
        constants={"factors": np.ones(2, dtype=np.float32)},
    )
    graph.opset_import[0].version = opset
    assert run(to_half(graph)).tolist() == [[1, 2, 3, 4]]


def test_values_that_others_need_in_float32_are_cast_back() -> None:
    graph = graph_between(helper.make_node("Relu", ["a"], ["b"]))
    graph.graph.output.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, ["batch", 4]))
    half = to_half(graph)
    outputs = GraphSession(half, threads=1).run(np.array([[1, 2, 3, 4]], dtype=np.uint8))
    assert [output.dtype for output in outputs] == [np.float32, np.float32]
    assert outputs[1].tolist() == [[1, 2, 3, 4]]


def test_numbers_beyond_fp16_become_the_nearest_that_it_holds() -> None:
    mask = np.array([0, np.finfo(np.float32).min, 1e-12, -np.inf], dtype=np.float32)
    half = to_half(graph_between(helper.make_node("Add", ["a", "mask"], ["b"]), constants={"mask": mask}))
    values = next(numpy_helper.to_array(tensor) for tensor in half.graph.initializer if tensor.name == "mask/half")
    assert values.tolist() == [0, -65504, float(np.finfo(np.float16).smallest_subnormal), -np.inf]


def test_a_node_with_a_body_is_refused() -> None:
    def branch(name: str, op_type: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op_type, ["a"], [name])], name, [], [output])

    graph = graph_between(
        helper.make_node("If", ["yes"], ["b"], then_branch=branch("y", "Relu"), else_branch=branch("n", "Neg")),
        constants={"yes": np.array(True)},
    )
    with pytest.raises(ExportError, match=r"node 'If/.*' \(If\): has a body, which can't be converted to fp16"):
        to_half(graph)

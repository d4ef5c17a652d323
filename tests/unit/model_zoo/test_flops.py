"""FLOPs by rule, against figures worked by hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from model_zoo.errors import FlopsError
from model_zoo.flops import count_model

FLOAT = TensorProto.FLOAT


def make_model(
    nodes: Sequence[NodeProto],
    *,
    image: Sequence[Any] = ("batch", 3, 8, 8),
    weights: dict[str, Any] | None = None,
    output: str = "y",
    opset: int = 18,
    **options: Any,
) -> ModelProto:
    """Make a graph from input x to one output; weights are shapes (float32 zeros) or arrays."""
    initializers = [
        numpy_helper.from_array(value if isinstance(value, np.ndarray) else np.zeros(value, dtype=np.float32), name)
        for name, value in (weights or {}).items()
    ]
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", FLOAT, list(image))],
        [helper.make_empty_tensor_value_info(output)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], **options)


def node(op_type: str, *inputs: str, output: str = "y", **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, list(inputs), [output], name=f"the_{op_type}", **attributes)


def macs(nodes: Sequence[NodeProto], **options: Any) -> int:
    cost = count_model(make_model(nodes, **options))
    assert cost.flops == 2 * cost.macs
    return cost.macs


def test_convolution() -> None:
    # 8x8 outputs of 4 filters, each over 3 channels of 3x3.
    assert macs([node("Conv", "x", "w", pads=[1] * 4)], weights={"w": (4, 3, 3, 3)}) == 8 * 8 * 4 * 3 * 9


def test_grouped_strided_convolution() -> None:
    # 4x4 outputs of 6 filters, each over one channel of 3x3.
    nodes = [node("Conv", "x", "w", pads=[1] * 4, strides=[2, 2], group=3)]
    assert macs(nodes, weights={"w": (6, 1, 3, 3)}) == 4 * 4 * 6 * 9


def test_convolution_by_auto_pad() -> None:
    nodes = [node("Conv", "x", "w", auto_pad="SAME_UPPER", strides=[2, 2])]
    assert macs(nodes, weights={"w": (4, 3, 3, 3)}) == 4 * 4 * 4 * 3 * 9


def test_transposed_convolution() -> None:
    # Each of 8x8x3 inputs meets 5 filters of 2x2.
    assert macs([node("ConvTranspose", "x", "w", strides=[2, 2])], weights={"w": (3, 5, 2, 2)}) == 8 * 8 * 3 * 5 * 4


@pytest.mark.parametrize(("shape", "transposed"), [((192, 10), 0), ((10, 192), 1)])
def test_gemm(shape: tuple[int, int], transposed: int) -> None:
    nodes = [node("Flatten", "x", output="f"), node("Gemm", "f", "w", transB=transposed)]
    assert macs(nodes, weights={"w": shape}) == 192 * 10


def test_matmul_over_leading_axes() -> None:
    # 3x8 rows of 8 against 8x5.
    assert macs([node("MatMul", "x", "w")], weights={"w": (8, 5)}) == 3 * 8 * 8 * 5


def test_matmul_with_a_vector() -> None:
    assert macs([node("MatMul", "x", "w")], weights={"w": (8,)}) == 3 * 8 * 8


@pytest.mark.parametrize("equation", ["bchw,wk->bchk", "...w,wk->...k", "b...w, wk -> b...k", "bchw,wk"])
def test_einsum(equation: str) -> None:
    assert macs([node("Einsum", "x", "w", equation=equation)], weights={"w": (8, 5)}) == 3 * 8 * 8 * 5


def test_einsum_of_one_operand_is_free_and_of_three_refused() -> None:
    assert macs([node("Einsum", "x", equation="bchw->bcwh")]) == 0
    nodes = [node("Einsum", "x", "w", "w", equation="bchw,wk,kl->bchl")]
    with pytest.raises(FlopsError, match=r"the_Einsum.*got 3 operands; must be at most 2"):
        macs(nodes, weights={"w": (8, 8)})


def test_contraction_written_element_by_element() -> None:
    # Capsules: [1, 1, 8, 8] * [10, 8, 8] summed over the last two axes.
    weights = {"w": (10, 8, 8), "axes": np.array([2, 3])}
    nodes = [node("Mul", "x", "w", output="p"), node("ReduceSum", "p", "axes")]
    assert macs(nodes, image=["batch", 1, 8, 8], weights=weights) == 10 * 8 * 8


@pytest.mark.parametrize("scale", [(1,), (3, 1, 1)])
def test_scaling_before_a_sum_is_no_contraction(scale: tuple[int, ...]) -> None:
    nodes = [node("Mul", "x", "w", output="p"), node("ReduceSum", "p", "axes")]
    assert macs(nodes, weights={"w": scale, "axes": np.array([-1])}) == 0


def test_a_sum_of_squares_is_no_contraction() -> None:
    assert macs([node("Mul", "x", "x", output="p"), node("ReduceSum", "p")]) == 0


def test_activations_pooling_and_normalisation_are_free() -> None:
    weights = dict.fromkeys(("scale", "bias", "mean", "var"), (3,))
    nodes = [
        node("BatchNormalization", "x", "scale", "bias", "mean", "var", output="n"),
        node("Relu", "n", output="r"),
        node("GlobalAveragePool", "r"),
    ]
    cost = count_model(make_model(nodes, weights=weights))
    assert (cost.macs, cost.params) == (0, 6)


def test_attention_of_opset_23() -> None:
    # Two heads of 4 over 8 positions: 2 products of 8 x 8 x 4 a head.
    nodes = [node("Attention", "x", "x", "x")]
    assert macs(nodes, image=["batch", 2, 8, 4], opset=23) == 2 * 2 * 8 * 8 * 4
    nodes = [node("Attention", "x", "x", "x", q_num_heads=2, kv_num_heads=2)]
    assert macs(nodes, image=["batch", 8, 8], opset=23) == 2 * 2 * 8 * 8 * 4


def test_quantised_convolution_counts_like_its_source() -> None:
    def scale(name: str) -> dict[str, Any]:
        return {f"{name}_scale": np.array(1, dtype=np.float32), f"{name}_zero": np.array(0, dtype=np.uint8)}

    weights = {"w": np.zeros((4, 3, 3, 3), dtype=np.uint8), **scale("x"), **scale("w"), **scale("y")}
    nodes = [
        node("QuantizeLinear", "x", "x_scale", "x_zero", output="q"),
        node("QLinearConv", "q", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero", pads=[1] * 4),
    ]
    cost = count_model(make_model(nodes, weights=weights))
    assert (cost.macs, cost.params) == (8 * 8 * 4 * 3 * 9, 4 * 3 * 9)


def test_dequantised_weights_count_like_their_source() -> None:
    weights = {
        "w": np.zeros((4, 3, 3, 3), dtype=np.int8),
        "scale": np.ones(4, dtype=np.float32),
        "zero": np.zeros(4, dtype=np.int8),
    }
    nodes = [node("DequantizeLinear", "w", "scale", "zero", output="f", axis=0), node("Conv", "x", "f", pads=[1] * 4)]
    cost = count_model(make_model(nodes, weights=weights))
    assert (cost.macs, cost.params) == (8 * 8 * 4 * 3 * 9, 4 * 3 * 9)


def test_a_fixed_batch_is_divided_by() -> None:
    assert macs([node("MatMul", "x", "w")], image=[4, 3, 8, 8], weights={"w": (8, 5)}) == 3 * 8 * 8 * 5


def test_shapes_computed_inside_the_graph_are_folded() -> None:
    # What an exporter writes for flatten(1): the batch read from the input, all else multiplied.
    weights = {"zero": np.array([0]), "one": np.array([1]), "rest": np.array([-1]), "w": (192, 10)}
    nodes = [
        node("Shape", "x", output="shape"),
        node("Gather", "shape", "zero", output="batch"),
        node("Mul", "batch", "one", output="same"),
        node("Concat", "same", "rest", output="target", axis=0),
        node("Reshape", "x", "target", output="flat"),
        node("MatMul", "flat", "w"),
    ]
    assert macs(nodes, weights=weights) == 192 * 10


def branch(name: str, features: int) -> GraphProto:
    """Multiply the outer x by a [8, features] weight."""
    weight = numpy_helper.from_array(np.zeros((8, features), dtype=np.float32), f"w_{name}")
    return helper.make_graph(
        [node("MatMul", "x", f"w_{name}", output=name)], name, [], [helper.make_empty_tensor_value_info(name)], [weight]
    )


def test_of_two_branches_the_dearer_counts() -> None:
    nodes = [node("If", "flag", then_branch=branch("small", 2), else_branch=branch("large", 7))]
    cost = count_model(make_model(nodes, weights={"flag": np.array(True)}))
    assert cost.macs == 3 * 8 * 8 * 7
    assert cost.params == 8 * 2 + 8 * 7


def loop(body_nodes: Sequence[NodeProto]) -> NodeProto:
    values = [helper.make_tensor_value_info(name, TensorProto.INT64, []) for name in ("turn",)]
    condition = helper.make_tensor_value_info("condition", TensorProto.BOOL, [])
    state = helper.make_tensor_value_info("state", FLOAT, [1, 3, 8, 8])
    outputs = [
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        helper.make_tensor_value_info("next", FLOAT, None),
    ]
    body = helper.make_graph(
        [node("Identity", "condition", output="go"), *body_nodes], "body", [*values, condition, state], outputs
    )
    return node("Loop", "turns", "", "x", body=body)


def test_a_loop_with_contractions_is_refused_by_name_and_one_without_is_free() -> None:
    weights = {"turns": np.array(3), "w": (8, 8)}
    assert macs([loop([node("Relu", "state", output="next")])], weights=weights) == 0
    with pytest.raises(FlopsError, match=r"node 'the_Loop' \(Loop\): contractions in a loop"):
        macs([loop([node("MatMul", "state", "w", output="next")])], weights=weights)


def test_recurrence_is_refused_by_name() -> None:
    with pytest.raises(FlopsError, match=r"node 'the_GRU' \(GRU\): no rule counts this operator"):
        macs([node("GRU", "x", "w", "r", hidden_size=4)], weights={"w": (1, 12, 8), "r": (1, 12, 4)})


def test_an_operator_outside_the_standard_is_refused_by_name() -> None:
    model = make_model([node("Magic", "x", domain="acme")])
    model.opset_import.append(helper.make_opsetid("acme", 1))
    with pytest.raises(FlopsError, match=r"node 'the_Magic' \(acme.Magic\): no rule"):
        count_model(model)


def test_local_functions_are_counted_inside() -> None:
    function = helper.make_function(
        "acme", "Twice", ["a", "w"], ["b"],
        [helper.make_node("MatMul", ["a", "w"], ["m"]), helper.make_node("MatMul", ["m", "w"], ["b"])],
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    model = make_model([node("Twice", "x", "w", domain="acme")], weights={"w": (8, 8)}, functions=[function])
    model.opset_import.append(helper.make_opsetid("acme", 1))
    assert count_model(model).macs == 2 * 3 * 8 * 8 * 8


def test_an_unknown_shape_is_refused_by_name() -> None:
    with pytest.raises(FlopsError, match=r"the_MatMul.*shape of 'y' is unknown after shape inference"):
        macs([node("MatMul", "x", "w")], image=["batch", 3, "height", 8], weights={"w": (8, 5)})


def test_a_graph_without_input_is_refused() -> None:
    model = make_model([node("Identity", "w")], weights={"w": (2,)})
    del model.graph.input[:]
    with pytest.raises(FlopsError, match="got no input with a batch"):
        count_model(model)


def test_a_file_is_counted_without_its_external_weights(tmp_path: Any) -> None:
    model = make_model([node("MatMul", "x", "w")], weights={"w": (8, 500)})
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    cost = count_model(onnx.load(tmp_path / "m.onnx", load_external_data=False))
    assert (cost.macs, cost.params) == (3 * 8 * 8 * 500, 8 * 500)

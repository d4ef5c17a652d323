"""Static quantisation: what is quantised, with which types and ranges, and what it costs in accuracy."""
# Shapes: N images, K classes, HWC image.

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from fitted_classifier import SIZE, digits, fitted_classifier
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from own_classifier import own_classifier

from model_zoo.card import TaskCard
from model_zoo.errors import ExportError
from model_zoo.flops import count_model
from model_zoo.graph import GraphSession, random_images
from model_zoo.onnx_classifier import read_classifier
from model_zoo.preamble import Preamble
from model_zoo.quantise import to_int8

IMAGES, LABELS = digits()
FITTED, SHOWN, HELD_OUT = slice(0, 1000), slice(0, 128), slice(1000, None)


def batches(images_NHWC: NDArray[np.uint8], size: int = 32) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(images_NHWC), size):
        yield images_NHWC[start : start + size]


def adopt(model: ModelProto, folder: Path, *, size: int = SIZE, classes: int = 10, channels: int = 1) -> ModelProto:
    onnx.save(model, folder / "own.onnx")
    names = tuple(map(str, range(classes)))
    task = TaskCard.model_validate({"height": size, "width": size, "channels": channels, "classes": names})
    return read_classifier(folder / "own.onnx").adopt(task, Preamble(mean=(0.1,), std=(0.3,))).graph


def logits(graph: ModelProto, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    return GraphSession(graph, threads=1).logits(images_NHWC)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelProto:
    return adopt(fitted_classifier(IMAGES[FITTED], LABELS[FITTED]), tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def quantised(source: ModelProto) -> ModelProto:
    return to_int8(source, batches(IMAGES[SHOWN]))


def producers(graph: ModelProto) -> dict[str, NodeProto]:
    return {name: node for node in graph.graph.node for name in node.output}


def weights(graph: ModelProto) -> dict[str, NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


def test_the_preamble_stays_as_it_is(source: ModelProto, quantised: ModelProto) -> None:
    def before_the_first_conv(graph: ModelProto) -> list[tuple[str, list[str]]]:
        producing, chain = producers(graph), []
        name = next(node for node in graph.graph.node if node.op_type == "Conv").input[0]
        while name != "images":
            node = producing[name]
            name = node.input[0]
            # The tool drops a cast from float32 to float32.
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear") and node.output[0] != "classifier/x":
                chain.append((node.op_type, list(node.output)))
        return chain

    assert [op_type for op_type, _ in before_the_first_conv(quantised)] == ["Sub", "Mul", "Cast", "Transpose"]
    assert before_the_first_conv(quantised) == before_the_first_conv(source)
    quantising = [node for node in quantised.graph.node if node.op_type == "QuantizeLinear"]
    # The first one stands behind the whole preamble.
    assert producers(quantised)[quantising[0].input[0]].output[0] == before_the_first_conv(source)[0][1][0]
    names = {"images", *(name for _, outputs in before_the_first_conv(source)[1:] for name in outputs)}
    assert names.isdisjoint(node.input[0] for node in quantising)


def test_weights_are_int8_by_channel_and_activations_uint8(quantised: ModelProto) -> None:
    producing, values = producers(quantised), weights(quantised)
    convs = [node for node in quantised.graph.node if node.op_type == "Conv"]
    assert len(convs) == 3
    for conv in convs:
        image, weight = producing[conv.input[0]], producing[conv.input[1]]
        assert image.op_type == weight.op_type == "DequantizeLinear"
        assert values[image.input[2]].dtype == np.uint8
        assert values[image.input[1]].shape == ()
        stored = values[weight.input[0]]
        assert stored.dtype == np.int8
        assert values[weight.input[1]].shape == (stored.shape[0],)
        # Symmetric, and every channel uses its whole range.
        assert not values[weight.input[2]].any()
        assert np.abs(stored.astype(int)).reshape(len(stored), -1).max(axis=1).tolist() == [127] * len(stored)


def test_logits_leave_the_last_product_in_float32(quantised: ModelProto) -> None:
    assert quantised.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    last = producers(quantised)["logits"]
    while last.op_type in ("Identity", "Cast", "Flatten"):
        last = producers(quantised)[last.input[0]]
    assert last.op_type == "Gemm"
    assert producers(quantised)[last.input[1]].op_type == "DequantizeLinear"
    logits_NK = logits(quantised, IMAGES[:200])
    assert len(np.unique(logits_NK)) > 5 * 256


def test_it_costs_what_its_source_costs(source: ModelProto, quantised: ModelProto) -> None:
    assert count_model(quantised).flops == count_model(source).flops
    assert count_model(quantised).macs == 64 * 16 * 9 * (1 + 16) + 16 * 32 * 16 * 9 + 512 * 10


def test_accuracy_on_unseen_digits_stays(source: ModelProto, quantised: ModelProto) -> None:
    labels_N = LABELS[HELD_OUT]
    source_NK, logits_NK = (logits(graph, IMAGES[HELD_OUT]) for graph in (source, quantised))
    accuracy = float((source_NK.argmax(axis=1) == labels_N).mean())
    assert accuracy > 0.9
    assert float((logits_NK.argmax(axis=1) == labels_N).mean()) > accuracy - 0.01
    assert float((logits_NK.argmax(axis=1) == source_NK.argmax(axis=1)).mean()) > 0.98


def test_ranges_are_those_of_all_images(source: ModelProto) -> None:
    dark, bright = IMAGES[SHOWN] // 16, IMAGES[SHOWN]
    difference = {
        name: float(np.abs(logits(to_int8(source, iter(shown)), bright) - logits(source, bright)).max())
        for name, shown in {"dark": [dark], "both": [dark, bright], "turned": [bright, dark]}.items()
    }
    assert difference["both"] == difference["turned"]
    assert difference["dark"] > 4 * difference["both"]


def test_the_same_images_make_the_same_file(source: ModelProto, quantised: ModelProto) -> None:
    assert to_int8(source, batches(IMAGES[SHOWN])).SerializeToString() == quantised.SerializeToString()


def test_the_source_is_left_alone_and_keeps_its_metadata(source: ModelProto) -> None:
    before = source.SerializeToString()
    marked = ModelProto.FromString(before)
    marked.metadata_props.append(onnx.StringStringEntryProto(key="about", value="mine"))
    quantised = to_int8(marked, batches(IMAGES[SHOWN]))
    assert [(entry.key, entry.value) for entry in quantised.metadata_props] == [("about", "mine")]
    assert {entry.domain for entry in quantised.opset_import} == {""}
    to_int8(source, batches(IMAGES[SHOWN]))
    assert source.SerializeToString() == before


def test_normalisation_is_folded_into_convolutions_first(tmp_path: Path) -> None:
    source = adopt(fitted_classifier(IMAGES[FITTED], LABELS[FITTED], norm=True), tmp_path)
    quantised = to_int8(source, batches(IMAGES[SHOWN]))
    assert "BatchNormalization" in {node.op_type for node in source.graph.node}
    assert "BatchNormalization" not in {node.op_type for node in quantised.graph.node}
    source_NK, logits_NK = (logits(graph, IMAGES[HELD_OUT]) for graph in (source, quantised))
    assert float((logits_NK.argmax(axis=1) == source_NK.argmax(axis=1)).mean()) > 0.97
    assert count_model(quantised).flops == count_model(source).flops


@pytest.mark.parametrize("opset", [9, 20])
def test_matrix_products_of_any_opset_are_quantised(tmp_path: Path, opset: int) -> None:
    source = adopt(own_classifier(opset=opset), tmp_path, classes=5, channels=3)
    images_BHWC = random_images(TaskCard(height=8, width=8, channels=3, classes=tuple("abcde")), 64)
    quantised = to_int8(source, batches(images_BHWC))
    product = next(node for node in quantised.graph.node if node.op_type == "MatMul")
    assert [producers(quantised)[name].op_type for name in product.input] == ["DequantizeLinear"] * 2
    assert not {node.op_type for node in quantised.graph.node if product.output[0] in node.input} & {"QuantizeLinear"}
    scale = float(np.abs(logits(source, images_BHWC)).max())
    assert float(np.abs(logits(quantised, images_BHWC) - logits(source, images_BHWC)).max()) < 0.03 * scale


def test_without_images_it_is_refused(source: ModelProto) -> None:
    with pytest.raises(ExportError, match="can't quantise the graph: No data is collected"):
        to_int8(source, iter(()))

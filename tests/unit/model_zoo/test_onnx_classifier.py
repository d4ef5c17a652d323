"""A user's own ONNX classifier: wrapped right in all its forms, or refused for a reason."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from own_classifier import CLASSES, SIZE, own_classifier

from model_zoo.card import TaskCard
from model_zoo.errors import ExportError
from model_zoo.graph import ExportedModel, GraphSession, random_images
from model_zoo.onnx_classifier import read_classifier
from model_zoo.preamble import Preamble

PREAMBLE = Preamble(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def task(size: int = SIZE, channels: int = 3, classes: tuple[str, ...] = CLASSES) -> TaskCard:
    return TaskCard.model_validate({"height": size, "width": size, "channels": channels, "classes": classes})


def adopt(
    folder: Path,
    bound: TaskCard,
    *,
    image_size: int | None = None,
    said_layout: str = "auto",
    probabilities: bool = False,
    **form: Any,
) -> ExportedModel:
    path = folder / "own.onnx"
    onnx.save(own_classifier(**form), path)
    classifier = read_classifier(path, layout=said_layout, image_size=image_size)
    preamble = Preamble() if form.get("channels") == 1 else PREAMBLE
    return classifier.adopt(bound, preamble, from_probabilities=probabilities)


def reference(images_BHWC: NDArray[np.float64], preamble: Preamble = PREAMBLE) -> NDArray[np.float32]:
    """Give the plain float classifier's scores for pixels 0..255."""
    mean, std = preamble.numbers(images_BHWC.shape[-1])
    normal_BHWC = (images_BHWC / 255 - mean) / std
    session = GraphSession(own_classifier())
    return session.run(normal_BHWC.transpose(0, 3, 1, 2).astype(np.float32))[0].astype(np.float32)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"layout": "nhwc"},
        {"batch": 1},
        {"batch": 1, "reshape_to": 1},
        {"batch": 5, "reshape_to": 5},
        {"opset": 9},
        {"opset": 20},
    ],
    ids=str,
)
def test_logits_are_the_classifiers_own(tmp_path: Path, form: dict[str, Any]) -> None:
    exported = adopt(tmp_path, task(), **form)
    images_BHWC = random_images(task(), 5)
    logits_BK = GraphSession(exported.graph).logits(images_BHWC)
    np.testing.assert_allclose(logits_BK, reference(images_BHWC.astype(np.float64)), rtol=1e-4, atol=1e-4)
    # 8x8 outputs of 4 filters over 3x3x3, then 256 x 5.
    assert exported.cost.macs == 64 * 4 * 27 + 256 * 5
    assert exported.agreement.max_logit_difference < 1e-4


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("opset", [11, 18])
def test_larger_images_are_resized_as_torch_does(tmp_path: Path, layout: str, opset: int) -> None:
    torch = pytest.importorskip("torch")
    bound = task(size=20)
    exported = adopt(tmp_path, bound, layout=layout, opset=opset)
    images_BHWC = random_images(bound, 3)
    images_BCHW = torch.from_numpy(images_BHWC).permute(0, 3, 1, 2).double()
    resized_BCHW = torch.nn.functional.interpolate(images_BCHW, size=(SIZE, SIZE), mode="bilinear", antialias=True)
    expected_BK = reference(resized_BCHW.permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(GraphSession(exported.graph).logits(images_BHWC), expected_BK, rtol=1e-3, atol=1e-2)


def test_uint8_inputs_get_pixels_as_they_are(tmp_path: Path) -> None:
    exported = adopt(tmp_path, task(), element=TensorProto.UINT8)
    images_BHWC = random_images(task(), 2)
    source = GraphSession(own_classifier(element=TensorProto.UINT8))
    expected = source.run(images_BHWC.transpose(0, 3, 1, 2))[0].astype(np.float32)
    np.testing.assert_allclose(GraphSession(exported.graph).logits(images_BHWC), expected, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.UINT8])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_bgr_classifiers_get_their_colours_and_statistics_in_their_order(
    tmp_path: Path, layout: str, element: int
) -> None:
    onnx.save(own_classifier(layout=layout, element=element), tmp_path / "own.onnx")
    preamble = replace(PREAMBLE, channel_order="bgr")
    graph = read_classifier(tmp_path / "own.onnx").adopt(task(), preamble).graph
    images_BHWC = random_images(task(), 2)
    bgr_BHWC = images_BHWC[..., ::-1].astype(np.float64)
    plain = Preamble(scale=1.0)
    expected = reference(bgr_BHWC * 255, plain) if element == TensorProto.UINT8 else reference(bgr_BHWC)
    np.testing.assert_allclose(GraphSession(graph).logits(images_BHWC), expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("element", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_floats_are_fed(tmp_path: Path, element: int) -> None:
    exported = adopt(tmp_path, task(), element=element)
    images_BHWC = random_images(task(), 3)
    logits_BK = GraphSession(exported.graph).logits(images_BHWC)
    np.testing.assert_allclose(logits_BK, reference(images_BHWC.astype(np.float64)), rtol=1e-2, atol=0.1)


def test_grey_images_are_repeated_for_a_colour_classifier(tmp_path: Path) -> None:
    exported = adopt(tmp_path, task(channels=1))
    images_BHW1 = random_images(task(channels=1), 2)
    expected = reference(np.repeat(images_BHW1, 3, axis=3).astype(np.float64))
    np.testing.assert_allclose(GraphSession(exported.graph).logits(images_BHW1), expected, rtol=1e-4, atol=1e-4)


def test_probabilities_become_their_logarithm(tmp_path: Path) -> None:
    exported = adopt(tmp_path, task(), softmax=True, probabilities=True)
    images_BHWC = random_images(task(), 3)
    logits_BK = GraphSession(exported.graph).logits(images_BHWC)
    scores_BK = reference(images_BHWC.astype(np.float64))
    expected_BK = scores_BK - np.log(np.exp(scores_BK).sum(axis=1, keepdims=True))
    # Probabilities that vanish in float32 keep the logarithm of the smallest number.
    floor_BK = np.maximum(expected_BK, np.log(np.finfo(np.float32).tiny))
    np.testing.assert_allclose(logits_BK, floor_BK, rtol=1e-3, atol=1e-3)


def test_an_open_size_takes_the_tasks_or_what_is_asked_for(tmp_path: Path) -> None:
    assert adopt(tmp_path, task(size=12), open_size=True).input.height == 12
    assert adopt(tmp_path, task(size=12), open_size=True, image_size=6).input.height == 6


@pytest.mark.parametrize(
    ("form", "options", "message"),
    [
        ({"softmax": True}, {}, "output is probabilities .*; say so with --output probabilities"),
        ({}, {"probabilities": True}, "output is not probabilities: its rows sum to"),
        ({}, {"image_size": 9}, "height: got --image-size 9; must be 8, which its graph fixes"),
        ({"extra_output": True}, {}, r"outputs: got \['scores', 'flat'\]; must be one"),
        ({"element": TensorProto.INT32}, {}, "input 'x': got INT32; must be FLOAT, FLOAT16, DOUBLE or UINT8"),
        ({}, {"said_layout": "nhwc"}, "channels: got 8 with layout nhwc; must be 1 or 3"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, form: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        adopt(tmp_path, task(), **options, **form)


def test_other_classes_and_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"got shape \[16, 5\] for 16 images; must be \[16, 2\]"):
        adopt(tmp_path, task(classes=("a", "b")))
    with pytest.raises(ExportError, match="channels: the graph takes 1; the task has 3"):
        adopt(tmp_path, task(), channels=1)


def test_a_layout_that_can_not_be_told_is_asked_for(tmp_path: Path) -> None:
    shape: list[str | int | None] = ["n", 3, 8, 3]
    model = own_classifier()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
    del model.graph.node[1:]
    model.graph.output[0].name = "maps"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(ExportError, match=r"layout: can't be told from the input's shape \['\?', 3, 8, 3\]"):
        read_classifier(tmp_path / "odd.onnx")


def test_a_batch_fixed_by_an_expansion_is_refused_with_the_reason(tmp_path: Path) -> None:
    model = own_classifier(batch=1)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((1, 256), dtype=np.float32), "token"))
    model.graph.node.insert(3, helper.make_node("Concat", ["flat", "token"], ["both"], axis=0))
    model.graph.node.insert(4, helper.make_node("Slice", ["both", "start", "end", "axis"], ["back"]))
    for name, value in (("start", 0), ("end", 1), ("axis", 0)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), name))
    model.graph.node[5].input[0] = "back"
    onnx.save(model, tmp_path / "fixed.onnx")
    with pytest.raises(ExportError, match=r"output: got shape \[1, 5\] for 16 images|batch: the graph is made for 1"):
        read_classifier(tmp_path / "fixed.onnx").adopt(task(), PREAMBLE)


def test_rows_that_touch_each_other_are_refused(tmp_path: Path) -> None:
    model = own_classifier()
    model.graph.node[-1].output[0] = "raw"
    model.graph.node.append(helper.make_node("Softmax", ["raw"], ["mixed"], axis=0))
    model.graph.node.append(helper.make_node("Add", ["raw", "mixed"], ["scores"]))
    onnx.save(model, tmp_path / "mixing.onnx")
    with pytest.raises(ExportError, match="got a logit difference of"):
        read_classifier(tmp_path / "mixing.onnx").adopt(task(), PREAMBLE)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"", "not a valid ONNX file"), (b"\xff\xff", "not a valid ONNX file")],
)
def test_files_that_are_no_onnx_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ExportError, match=message):
        read_classifier(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("preamble", "message"),
    [
        (Preamble(mean=(0.1, 0.2)), r"mean: got \(0.1, 0.2\); must be 1 or 3 finite numbers"),
        (Preamble(std=(0.0,)), r"std and scale: got \(0.0,\)"),
        (Preamble(scale=-1.0), "must be above 0"),
        (Preamble(mean=(float("nan"),)), "must be 1 or 3 finite numbers"),
    ],
)
def test_preambles_that_make_no_sense_are_refused(preamble: Preamble, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        preamble.numbers(3)

"""A small ONNX classifier that has really learnt something: drawn convolutions, and a last layer fitted to images."""
# Shapes: N images, K classes, F features, HWC image.

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits

from model_zoo.graph import GraphSession

SIZE = 8


def fitted_classifier(
    images_NHWC: NDArray[np.uint8],
    labels_N: NDArray[np.int64],
    *,
    width: int = 16,
    norm: bool = False,
    opset: int = 17,
    seed: int = 0,
) -> ModelProto:
    """Make conv, conv with a shortcut, pooling, conv, and a linear layer by least squares.

    Args:
        images_NHWC: grey, 8x8.
        labels_N: their classes.
        width: channels of the first convolutions.
        norm: put batch normalisation behind each convolution, not folded.
        opset: of the graph.
        seed: of the drawn convolutions.

    Returns:
        float32 ``x`` [n, 1, 8, 8] in [0, 1] in, float32 ``y`` [n, K] out.
    """
    classes = int(labels_N.max()) + 1
    features = 2 * width * 16
    blank = np.zeros((classes, features), dtype=np.float32)
    values_NCHW = images_NHWC.transpose(0, 3, 1, 2).astype(np.float32) / 255
    probe = _classifier(width, blank, norm=norm, opset=opset, seed=seed)
    probe.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["n", features]))
    rows_NF = GraphSession(probe, threads=1).run(values_NCHW)[1].astype(np.float64)
    targets_NK = 10 * np.eye(classes)[labels_N]
    products_FF = rows_NF.T @ rows_NF
    ridge_FF = products_FF + 1e-3 * np.trace(products_FF) / features * np.eye(features)
    matrix_KF = np.linalg.solve(ridge_FF, rows_NF.T @ targets_NK).T.astype(np.float32)
    return _classifier(width, matrix_KF, norm=norm, opset=opset, seed=seed)


def _classifier(width: int, matrix_KF: NDArray[np.float32], *, norm: bool, opset: int, seed: int) -> ModelProto:
    generator = np.random.default_rng(seed)
    constants: dict[str, NDArray[np.generic]] = {"matrix": matrix_KF, "bias": np.zeros(len(matrix_KF), np.float32)}
    nodes: list[NodeProto] = []

    def add(op_type: str, *inputs: str, output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op_type, list(inputs), [output], name=output, **attributes))
        return output

    def conv(last: str, inputs: int, outputs: int, name: str) -> str:
        scale = (2 / (9 * inputs)) ** 0.5
        # Channels of very different size, which one scale for all would drown.
        spread = np.geomspace(0.05, 1, outputs).reshape(-1, 1, 1, 1)
        constants[f"{name}/w"] = (generator.standard_normal((outputs, inputs, 3, 3)) * scale * spread).astype(
            np.float32
        )
        last = add("Conv", last, f"{name}/w", output=f"{name}/maps", pads=[1] * 4)
        if norm:
            for part, value in (("s", 2.0), ("b", 0.1), ("m", 0.05), ("v", 0.5)):
                constants[f"{name}/{part}"] = np.full(outputs, value, dtype=np.float32)
            last = add("BatchNormalization", last, *(f"{name}/{part}" for part in "sbmv"), output=f"{name}/normal")
        return last

    first = add("Relu", conv("x", 1, width, "one"), output="first")
    second = add("Relu", add("Add", conv(first, width, width, "two"), first, output="sum"), output="second")
    pooled = add("MaxPool", second, output="pooled", kernel_shape=[2, 2], strides=[2, 2])
    third = add("Relu", conv(pooled, width, 2 * width, "three"), output="third")
    flat = add("Flatten", third, output="flat")
    add("Gemm", flat, "matrix", "bias", output="y", transB=1)
    graph = helper.make_graph(
        nodes,
        "fitted",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", len(matrix_KF)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Give scikit-learn's 1,797 handwritten digits as uint8 [N, 8, 8, 1], and their labels int64 [N]."""
    found = load_digits()
    images_NHWC = (found.images * (255 / 16)).round().astype(np.uint8)[..., None]
    return images_NHWC, found.target.astype(np.int64)


def write_digits(path: Path, images_NHWC: NDArray[np.uint8], labels_N: NDArray[np.int64]) -> Path:
    """Write images as ``<label>/<row>.png``."""
    for row, (image_HWC, label) in enumerate(zip(images_NHWC, labels_N, strict=True)):
        file = path / str(label) / f"{row:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image_HWC[..., 0]).save(file)
    return path

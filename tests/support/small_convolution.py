"""A small convolutional member as ONNX, in fp32 and quantised by hand-placed QDQ nodes; made in milliseconds."""
# Shapes: K classes, HWC image.

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

IMAGE_SHAPE = (8, 8, 3)
NUM_CLASSES = 5
_CHANNELS = 16


def small_convolution(*, seed: int = 0, quantised: bool = False) -> ModelProto:
    """Make ``logits = mean(relu(conv(images))) @ weights``, uint8 [n, 8, 8, 3] in and float32 [n, 5] out."""
    draw = np.random.default_rng(seed).normal
    constants: dict[str, np.ndarray] = {
        "kernel": draw(scale=0.2, size=(_CHANNELS, 3, 3, 3)).astype(np.float32),
        "bias": draw(scale=0.1, size=_CHANNELS).astype(np.float32),
        "weights": draw(size=(_CHANNELS, NUM_CLASSES)).astype(np.float32),
        "white": np.array(1 / 255, dtype=np.float32),
    }
    nodes = [
        helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "white"], ["pixels"]),
    ]
    source, kernel = "pixels", "kernel"
    if quantised:
        scale_K = np.abs(constants["kernel"]).max(axis=(1, 2, 3)) / 127
        kernel_int8 = np.rint(constants.pop("kernel") / scale_K[:, None, None, None]).astype(np.int8)
        constants |= {
            "kernel_int8": kernel_int8,
            "kernel_scale": scale_K.astype(np.float32),
            "kernel_zero": np.zeros(_CHANNELS, dtype=np.int8),
        }
        nodes.append(
            helper.make_node("DequantizeLinear", ["kernel_int8", "kernel_scale", "kernel_zero"], ["kernel"], axis=0)
        )
        source = _quantise("pixels", nodes, constants, 1 / 255)
    nodes += [
        helper.make_node("Conv", [source, kernel, "bias"], ["convolved"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["convolved"], ["positive"]),
    ]
    positive = _quantise("positive", nodes, constants, 6 / 255) if quantised else "positive"
    nodes += [
        helper.make_node("GlobalAveragePool", [positive], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small_convolution",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", *IMAGE_SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", NUM_CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _quantise(name: str, nodes: list[NodeProto], constants: dict[str, np.ndarray], scale: float) -> str:
    """Round a value to uint8 and back, and give the name of what comes out."""
    constants |= {f"{name}_scale": np.array(scale, dtype=np.float32), f"{name}_zero": np.array(0, dtype=np.uint8)}
    parameters = [f"{name}_scale", f"{name}_zero"]
    nodes.append(helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_uint8"]))
    nodes.append(helper.make_node("DequantizeLinear", [f"{name}_uint8", *parameters], [f"{name}_rounded"]))
    return f"{name}_rounded"

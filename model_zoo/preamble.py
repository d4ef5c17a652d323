"""Nodes around a user's graph: pixels to its input in front, float32 logits behind."""
# Shapes: B rows, K classes, C channels, H height, W width.

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from model_zoo.card import TaskCard
from model_zoo.errors import ExportError
from model_zoo.graph import BATCH_NAME, INPUT_NAME, OUTPUT_NAME

ChannelOrder = Literal["rgb", "bgr"]

_OWN = "preamble/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Preamble:
    """What stands between pixels 0..255 and a float input: ``(pixel * scale - mean) / std``.

    Attributes:
        mean, std: one number, or one per channel in the graph's order; None is 0 and 1.
        scale: see above. A uint8 input gets pixels as they are.
        channel_order: of the colours that the graph takes.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float = 1 / 255
    channel_order: ChannelOrder = "rgb"

    def numbers(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Give mean and std, one per channel.

        Raises:
            ExportError: there are neither one nor as many as channels, or a std or the scale is not above 0.
        """
        mean, std = self.mean or (0.0,), self.std or (1.0,)
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, channels) or not np.isfinite(values).all():
                raise ExportError(f"{name}: got {values}; must be 1 or {channels} finite numbers")
        if min(std) <= 0 or not self.scale > 0:
            raise ExportError(f"std and scale: got {std}, {self.scale}; must be above 0")
        return mean * (channels // len(mean)), std * (channels // len(std))


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphView:
    """What a user's graph takes.

    Attributes:
        layout: ``nchw`` or ``nhwc``.
        channels: 1 (grey) or 3 (RGB).
        size: height and width in pixels.
    """

    layout: str
    channels: int
    size: tuple[int, int]


def add_preamble(model: ModelProto, task: TaskCard, view: GraphView, preamble: Preamble) -> None:
    """Put nodes in front of a graph that turn uint8 [B, H, W, C] into what it takes.

    Args:
        model: changed in place; of one input.
        task: image size that comes in.
        view: what the graph takes.
        preamble: how pixels become floats.

    Raises:
        ExportError: the preamble's numbers don't fit the channels.
    """
    graph = model.graph
    target = graph.input[0]
    steps = _Steps(model)
    steps.add("Transpose", perm=[0, 3, 1, 2])
    steps.add("Cast", to=TensorProto.FLOAT)
    if view.size != (task.height, task.width):
        steps.resize(view.size)
    if view.channels != task.channels:
        steps.repeat(view.channels)
    elif preamble.channel_order == "bgr":
        steps.add("Gather", np.arange(view.channels)[::-1].astype(np.int64), axis=1)
    element = target.type.tensor_type.elem_type
    if element == TensorProto.UINT8:
        # Resized pixels lie between whole numbers; a cast alone would cut them off.
        steps.add("Round")
    else:
        mean, std = preamble.numbers(view.channels)
        scale = preamble.scale / np.array(std, dtype=np.float64)
        shift = np.array(mean, dtype=np.float64) / np.array(std, dtype=np.float64)
        steps.add("Mul", scale.astype(np.float32).reshape(1, -1, 1, 1))
        steps.add("Sub", shift.astype(np.float32).reshape(1, -1, 1, 1))
    if view.layout == "nhwc":
        steps.add("Transpose", perm=[0, 2, 3, 1])
    steps.add("Cast", output=target.name, to=element)
    shape: list[str | int | None] = [BATCH_NAME, task.height, task.width, task.channels]
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, shape))
    steps.put_in_front()


class _Steps:
    """A chain of nodes from the graph's new input on."""

    def __init__(self, model: ModelProto) -> None:
        self._graph = model.graph
        self._nodes: list[onnx.NodeProto] = []
        self._last = INPUT_NAME

    def add(self, op_type: str, *constants: np.ndarray, output: str | None = None, **attributes: Any) -> None:
        """Append a node that takes the last one's output, then constants."""
        step = len(self._nodes)
        inputs = [self._last]
        for position, constant in enumerate(constants):
            name = f"{_OWN}{step}/{position}"
            self._graph.initializer.append(numpy_helper.from_array(constant, name))
            inputs.append(name)
        self._last = output or f"{_OWN}{step}"
        self._nodes.append(
            helper.make_node(op_type, inputs, [self._last], name=f"{_OWN}{step}/{op_type}", **attributes)
        )

    def resize(self, size: tuple[int, int]) -> None:
        """Resize [B, C, H, W], bilinear and antialiased."""
        # NOTE: sizes of all four axes, the batch copied: ONNX Runtime 1.31 breaks a Resize of some axes alone where it
        # moves a Transpose across it.
        batch_and_channels, target, sizes = (f"{_OWN}{name}" for name in ("kept", "target", "sizes"))
        self._nodes.append(helper.make_node("Shape", [self._last], [batch_and_channels], start=0, end=2))
        self._graph.initializer.append(numpy_helper.from_array(np.array(size, dtype=np.int64), target))
        self._nodes.append(helper.make_node("Concat", [batch_and_channels, target], [sizes], axis=0))
        resized = f"{_OWN}resized"
        self._nodes.append(
            helper.make_node(
                "Resize",
                [self._last, "", "", sizes],
                [resized],
                mode="linear",
                antialias=1,
                # Weights at the border are scaled up again, as Pillow and torch do.
                exclude_outside=1,
                coordinate_transformation_mode="half_pixel",
            )
        )
        self._last = resized

    def repeat(self, channels: int) -> None:
        """Repeat the one channel of [B, 1, H, W]."""
        self.add("Tile", np.array([1, channels, 1, 1], dtype=np.int64))

    def put_in_front(self) -> None:
        """Place the chain before the graph's own nodes."""
        own = list(self._graph.node)
        del self._graph.node[:]
        self._graph.node.extend([*self._nodes, *own])


def add_output(model: ModelProto, *, from_probabilities: bool) -> None:
    """Turn a graph's output, [B, K] or with ones behind, into float32 logits [B, K].

    Args:
        model: changed in place; of one output.
        from_probabilities: the output is probabilities, of which the logarithm is taken.
    """
    graph = model.graph
    last = graph.output[0].name
    chain: list[tuple[str, dict[str, Any]]] = [("Flatten", {"axis": 1}), ("Cast", {"to": TensorProto.FLOAT})]
    if from_probabilities:
        tiny = np.array(np.finfo(np.float32).tiny, dtype=np.float32)
        graph.initializer.append(numpy_helper.from_array(tiny, f"{_OWN}tiny"))
        chain += [("Max", {}), ("Log", {})]
    chain.append(("Identity", {}))
    for step, (op_type, attributes) in enumerate(chain):
        output = OUTPUT_NAME if step == len(chain) - 1 else f"{_OWN}output/{step}"
        inputs = [last, f"{_OWN}tiny"] if op_type == "Max" else [last]
        graph.node.append(helper.make_node(op_type, inputs, [output], name=f"{_OWN}output/{op_type}", **attributes))
        last = output
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [BATCH_NAME, None]))

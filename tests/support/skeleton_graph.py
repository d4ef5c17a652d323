"""The contractions of a torch model as an ONNX graph, node by node, from a run on tensors without data: no export."""

from collections.abc import Sequence
from typing import Any

import torch
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten


class _Recorder(TorchDispatchMode):
    """Writes one ONNX node, on inputs of its own, for each contraction that runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nodes: list[NodeProto] = []
        self.inputs: list[ValueInfoProto] = []
        self.outputs: list[ValueInfoProto] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        match func:
            case _ATEN.convolution.default:
                data, weight, _, stride, padding, dilation, transposed, _, groups = args
                assert not transposed
                self._add(
                    "Conv",
                    [data, weight],
                    result,
                    strides=stride,
                    pads=[*padding, *padding],
                    dilations=dilation,
                    group=groups,
                )
            case _ATEN.addmm.default:
                self._add("MatMul", args[1:3], result)
            case _ATEN.mm.default | _ATEN.bmm.default:
                self._add("MatMul", args[:2], result)
            case _ if "attention" in func.name() or func is _ATEN.baddbmm.default:
                raise AssertionError(f"{func}: no rule; switch fused paths off")
        return result

    def _add(self, op_type: str, operands: Sequence[Tensor], result: Tensor, **attributes: Any) -> None:
        number = len(self.nodes)
        names = [f"{number}/{position}" for position in range(len(operands))]
        for name, operand in zip(names, operands, strict=True):
            self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(operand.shape)))
        self.outputs.append(helper.make_tensor_value_info(f"{number}", TensorProto.FLOAT, list(result.shape)))
        self.nodes.append(helper.make_node(op_type, names, [f"{number}"], name=f"{op_type}_{number}", **attributes))


def skeleton_graph(module: nn.Module, image: tuple[int, int, int]) -> ModelProto:
    """Run a module on one image without data, and give its contractions as an ONNX graph.

    Args:
        module: on the meta device, in evaluation mode, with fused attention off.
        image: channels, height, width.
    """
    recorder = _Recorder()
    with torch.no_grad(), recorder:
        module(torch.empty(1, *image, device="meta"))
    batch = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *image])
    graph = helper.make_graph(recorder.nodes, "skeleton", [batch, *recorder.inputs], recorder.outputs)
    return helper.make_model(graph)

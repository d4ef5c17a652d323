"""Batch norms multiplied into the convolutions before them: the same network with a pass over memory less for each."""
# Shapes: B rows, K classes, BCHW images as a network sees them.

import logging

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_log = logging.getLogger(__name__)

_TOLERANCE = 1e-3
"""Largest change of a logit, as a share of the largest logit, that rounding may make."""


def fold_norms(network: nn.Module, images_BCHW: Tensor) -> nn.Module:
    """Fold what can be folded, and see that the network still says the same.

    Args:
        network: in evaluation mode, float32; left as it is.
        images_BCHW: float32, for the comparison.

    Returns:
        a network with fewer layers; the one given, where it can't be traced or says something else when folded.
    """
    try:
        folded = _folded(fx.symbolic_trace(network))
        with torch.inference_mode():
            before_BK, after_BK = network(images_BCHW), folded(images_BCHW)
    except Exception:  # noqa: BLE001 - tracing runs the network's own code on stand-ins, which may raise anything
        _log.debug("a %s can't be traced: its batch norms stay apart", type(network).__name__)
        return network
    change = float((after_BK - before_BK).abs().max() / before_BK.abs().max().clamp(min=1e-6))
    # Asked this way round, as NaN is no small change.
    if not change <= _TOLERANCE:
        _log.warning("a %s says something else with its batch norms folded (%g)", type(network).__name__, change)
        return network
    return folded


def _folded(traced: fx.GraphModule) -> fx.GraphModule:
    modules = dict(traced.named_modules())
    targets = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    for node in list(traced.graph.nodes):
        source = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) > 1:
            continue
        norm, convolution = modules[str(node.target)], modules[str(source.target)]
        # Of these very classes, as others do more than their names say; and called once.
        if (
            type(norm) is nn.BatchNorm2d
            and type(convolution) is nn.Conv2d
            and norm.track_running_stats
            and targets.count(source.target) == 1
        ):
            traced.set_submodule(str(source.target), fuse_conv_bn_eval(convolution, norm))
            node.replace_all_uses_with(source)
            traced.graph.erase_node(node)
    traced.recompile()
    traced.delete_all_unused_submodules()
    return traced

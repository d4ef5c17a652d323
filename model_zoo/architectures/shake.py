"""Noise that scales activations by one random factor and their gradient by another: of Shake-Shake and ShakeDrop."""
# Shapes: B rows, C channels, H height, W width; 1 a dimension that broadcasts.

from typing import Any

import torch
from torch import Tensor


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, forward_scale: Tensor, backward_scale: Tensor) -> Tensor:
        ctx.save_for_backward(backward_scale)
        return maps * forward_scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        (backward_scale,) = ctx.saved_tensors
        return gradient * backward_scale, None, None


def scale_both_ways(maps_BCHW: Tensor, forward_scale: Tensor, backward_scale: Tensor) -> Tensor:
    """Multiply activations on the way forward, and their gradient by something else on the way back.

    Args:
        maps_BCHW: float [B, C, H, W].
        forward_scale, backward_scale: of the same dtype, broadcast against the maps. They get no gradient.

    Returns:
        ``forward_scale * maps``, whose gradient to the maps is ``backward_scale`` times the one that comes in.
    """
    scaled_BCHW: Tensor = _Scale.apply(maps_BCHW, forward_scale, backward_scale)
    return scaled_BCHW


def draw_uniform(maps_BCHW: Tensor, *shape: int) -> Tensor:
    """Draw from [0, 1) by the global generator of the maps' device, in their dtype.

    NOTE: training seeds that generator. Factors of the backward pass are drawn in the forward pass too, so that the
    draws' order does not hang on when autograd comes to which block.
    """
    return torch.rand(shape, device=maps_BCHW.device).to(maps_BCHW.dtype)

"""Augmentation of whole batches on the device that trains."""
# Shapes: B rows, C channels, H height, W width.

import torch
from torch import Tensor
from torch.nn import functional


def shift_randomly(images_BCHW: Tensor, max_shift_px: int, generator: torch.Generator) -> Tensor:
    """Move each image by up to ``max_shift_px`` in both directions; what comes in from outside is 0.

    Args:
        images_BCHW: [B, C, H, W] of any dtype.
        max_shift_px: largest shift in pixels, at least 0; 0 gives the images themselves.
        generator: on the CPU, so that every device draws the same shifts.

    Returns:
        shifted images, of the same shape, dtype and device.
    """
    if max_shift_px == 0:
        return images_BCHW
    rows, channels, height, width = images_BCHW.shape
    padded_BCHW = functional.pad(images_BCHW, (max_shift_px,) * 4)
    offsets_2B = torch.randint(0, 2 * max_shift_px + 1, (2, rows), generator=generator).to(images_BCHW.device)
    down_BH = offsets_2B[0, :, None] + torch.arange(height, device=images_BCHW.device)
    right_BW = offsets_2B[1, :, None] + torch.arange(width, device=images_BCHW.device)
    row_B = torch.arange(rows, device=images_BCHW.device)[:, None, None, None]
    channel_C = torch.arange(channels, device=images_BCHW.device)[None, :, None, None]
    return padded_BCHW[row_B, channel_C, down_BH[:, None, :, None], right_BW[:, None, None, :]]

"""Images to augment, and what an augmentation needs beside them."""
# Shapes: B images, C channels, H height, W width.

import torch
from torch import Tensor

from training.augment.ops import OpContext

FILLS = {1: (40,), 3: (10, 120, 230)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(images: int, channels: int = 3, *, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    """Give uint8 [B, C, H, W]: half of it noise, half of it a dim slope with some noise."""
    generator = seeded(seed)
    noise_BCHW = torch.randint(0, 256, (images, channels, height, width), generator=generator)
    slope_HW = torch.linspace(0, 180, height)[:, None] + torch.linspace(0, 40, width)
    dim_BCHW = slope_HW * torch.rand(images, channels, 1, 1, generator=generator) + noise_BCHW / 8
    is_noise_B = torch.arange(images)[:, None, None, None] % 2 == 0
    return torch.where(is_noise_B, noise_BCHW.float(), dim_BCHW).to(torch.uint8)


def op_context(channels: int = 3, seed: int = 0) -> OpContext:
    return OpContext(fill_C=torch.tensor(FILLS[channels], dtype=torch.uint8), generator=seeded(seed))

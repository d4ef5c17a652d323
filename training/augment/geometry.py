"""Batched kernels that move pixels or cover them: each is one gather by a map of sources, or one mask.

NOTE: the maps are read off torchvision's own kernels, applied once to an image of pixel numbers, so that what is
gathered equals what they give (nearest neighbour), on every device, for a fraction of their time.
"""
# Shapes: B images, C channels, H height, W width, P pixels of an image (H * W).

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from training.augment.sending import send

_MAX_PIXELS = 2**24
"""float32, in which torchvision moves pixel numbers, holds whole numbers exactly up to here."""
_KEPT_MAPS = 256


def rotate(images_BCHW: Tensor, degrees: float, fill_C: Tensor) -> Tensor:
    """Turn about the centre, counter-clockwise where ``degrees`` is positive."""
    return _moved(images_BCHW, "rotate", degrees, fill_C)


def shear_x(images_BCHW: Tensor, slope: float, fill_C: Tensor) -> Tensor:
    """Let pixel (x, y) come from (x + slope * y, y), counted from the upper left corner."""
    return _moved(images_BCHW, "shear_x", slope, fill_C)


def shear_y(images_BCHW: Tensor, slope: float, fill_C: Tensor) -> Tensor:
    """Let pixel (x, y) come from (x, y + slope * x), counted from the upper left corner."""
    return _moved(images_BCHW, "shear_y", slope, fill_C)


def translate_x(images_BCHW: Tensor, pixels: int, fill_C: Tensor) -> Tensor:
    """Move right by ``pixels``; left where negative."""
    return _moved(images_BCHW, "translate_x", pixels, fill_C)


def translate_y(images_BCHW: Tensor, pixels: int, fill_C: Tensor) -> Tensor:
    """Move down by ``pixels``; up where negative."""
    return _moved(images_BCHW, "translate_y", pixels, fill_C)


def cut_out(images_BCHW: Tensor, side_px: int, centres_2B: Tensor, fill_C: Tensor) -> Tensor:
    """Cover a square of each image (DeVries and Taylor, arXiv 1708.04552); what lies outside the image is clipped.

    Args:
        images_BCHW: uint8 [B, C, H, W].
        side_px: at least 1; the square covers ``side_px`` pixels from ``centre - side_px // 2`` on.
        centres_2B: int64 [2, B], row and column of each centre.
        fill_C: uint8 [C] that covers it.
    """
    firsts_2B = centres_2B - side_px // 2
    height, width = images_BCHW.shape[-2:]
    in_rows_BH, in_columns_BW = (
        (at >= first_B[:, None]) & (at < first_B[:, None] + side_px)
        for at, first_B in zip((_count(height, images_BCHW), _count(width, images_BCHW)), firsts_2B, strict=True)
    )
    # Bytes of 255 in the square and 0 outside: masks by bits are ten times faster on a CPU than ``where`` on uint8.
    square_B1HW = (in_rows_BH[:, None, :, None] & in_columns_BW[:, None, None, :]).view(torch.uint8).neg_()
    outside_BCHW: Tensor = images_BCHW & ~square_B1HW
    return outside_BCHW.bitwise_or_(fill_C[:, None, None] & square_B1HW)


def draw_centres(images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a pixel of each image, row and column, int64 [2, B] on the images' device."""
    ends = images_BCHW.shape[-2:]
    draws = [torch.randint(end, (len(images_BCHW),), generator=generator) for end in ends]
    return send(torch.stack(draws), images_BCHW.device)


def gather_pixels(images_BCHW: Tensor, sources_BP: Tensor, fill_C: Tensor) -> Tensor:
    """Give each pixel the value of its source.

    Args:
        images_BCHW: uint8 [B, C, H, W].
        sources_BP: int64 [B or 1, P], places in the flattened image, in 0..P; P is the fill.
        fill_C: uint8 [C].
    """
    batch, channels, height, width = images_BCHW.shape
    fill_BC1 = fill_C[None, :, None].expand(batch, -1, 1)
    flat_BCQ = torch.cat([images_BCHW.flatten(2), fill_BC1], dim=2)
    index_BCP = sources_BP[:, None].expand(batch, channels, -1)
    return flat_BCQ.gather(2, index_BCP).view(batch, channels, height, width)


def _count(length: int, like: Tensor) -> Tensor:
    return torch.arange(length, device=like.device)


def _moved(images_BCHW: Tensor, movement: str, value: float, fill_C: Tensor) -> Tensor:
    height, width = images_BCHW.shape[-2:]
    sources_P = _sources(movement, value, height, width, images_BCHW.device)
    return gather_pixels(images_BCHW, sources_P[None], fill_C)


@lru_cache(maxsize=_KEPT_MAPS)
def _sources(movement: str, value: float, height: int, width: int, device: torch.device) -> Tensor:
    """Give where each pixel comes from, int64 [P] in 0..P; P is outside."""
    pixels = height * width
    if pixels >= _MAX_PIXELS:
        raise ValueError(f"image: got {height} x {width} pixels; must be under {_MAX_PIXELS:,} pixels")
    # From 1 on: torchvision puts 0 where nothing comes from.
    numbers_11HW = torch.arange(1, pixels + 1, dtype=torch.float32).view(1, 1, height, width)
    sources_P = _MOVEMENTS[movement](numbers_11HW, value).flatten().long() - 1
    sources_P[sources_P < 0] = pixels
    return sources_P.to(device)


def _affine(
    images: Tensor,
    *,
    translate: tuple[int, int] = (0, 0),
    slopes: tuple[float, float] = (0.0, 0.0),
    center: tuple[float, float] | None = None,
) -> Tensor:
    moved = functional.affine(
        images,
        angle=0.0,
        translate=list(translate),
        scale=1.0,
        shear=[math.degrees(math.atan(slope)) for slope in slopes],
        center=None if center is None else list(center),
    )
    assert isinstance(moved, Tensor)
    return moved


def _rotate(images: Tensor, value: float) -> Tensor:
    moved = functional.rotate(images, value)
    assert isinstance(moved, Tensor)
    return moved


_MOVEMENTS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "rotate": _rotate,
    "shear_x": lambda images, value: _affine(images, slopes=(value, 0.0), center=(0.0, 0.0)),
    "shear_y": lambda images, value: _affine(images, slopes=(0.0, value), center=(0.0, 0.0)),
    "translate_x": lambda images, value: _affine(images, translate=(int(value), 0)),
    "translate_y": lambda images, value: _affine(images, translate=(0, int(value))),
}

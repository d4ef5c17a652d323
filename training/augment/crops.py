"""Random crops, flips and Cutout, image by image, on whole batches.

Crop and flip are one gather of each pixel's source; every draw is made on the CPU, so that devices agree to the bit.
"""
# Shapes: B images, C channels, H height, W width, P pixels of an image (H * W), L pixels along one side.

from typing import Literal

import torch
from torch import Tensor

from training.augment.augmentation import Moment
from training.augment.config import Flip
from training.augment.geometry import cut_out, draw_centres, gather_pixels
from training.augment.sending import send

_PIXELS_AT_ONCE = 2**20
"""Sources gathered at a time, 8 bytes each."""
_WORD = 2**64


def draw_shifts(images: int, pad_px: int, generator: torch.Generator) -> Tensor:
    """Draw where each crop lies, int64 [2, B] in -pad_px..pad_px: down and right of the image's own place."""
    return torch.randint(-pad_px, pad_px + 1, (2, images), generator=generator)


def draw_flips(ids_B: Tensor, flip: Flip, seed: int, moment: Moment, generator: torch.Generator) -> Tensor:
    """Tell which images are mirrored, bool [B] on the device of ``ids_B``.

    Args:
        ids_B: int64 [B], each image's number; the alternating flip depends on it, on ``seed`` and on the epoch alone.
        flip: how.
        seed: of the alternating flip's first epoch.
        moment: where the run is.
        generator: on the CPU; drawn from for random flips only.
    """
    if flip is Flip.NONE:
        return torch.zeros_like(ids_B, dtype=torch.bool)
    if flip is Flip.RANDOM:
        return send(torch.randint(2, ids_B.shape, generator=generator).bool(), ids_B.device)
    return _is_heads(ids_B, seed) ^ (moment.epoch % 2 == 1)


def crop_and_flip(
    images_BCHW: Tensor,
    shifts_2B: Tensor,
    is_flipped_B: Tensor,
    pad_mode: Literal["reflect", "constant"],
    fill_C: Tensor,
) -> Tensor:
    """Cut a window of the image's own size out of each padded image, and mirror some of them.

    Args:
        images_BCHW: uint8 [B, C, H, W].
        shifts_2B: int64 [2, B], where the windows lie, down and right of the image's place; under H and W where
            reflected.
        is_flipped_B: bool [B].
        pad_mode: what lies around the image.
        fill_C: uint8 [C], for the constant padding.

    Returns:
        uint8, of the same shape; all on the device of the images, as all arguments are.
    """
    height, width = images_BCHW.shape[-2:]
    at_once = max(1, _PIXELS_AT_ONCE // (height * width))
    parts = []
    for first in range(0, len(images_BCHW), at_once):
        rows = slice(first, first + at_once)
        down_B, right_B = shifts_2B[:, rows]
        row_BH = _positions(height, images_BCHW.device) + down_B[:, None]
        column_BW = _positions(width, images_BCHW.device).expand(len(down_B), -1)
        column_BW = torch.where(is_flipped_B[rows, None], width - 1 - column_BW, column_BW) + right_B[:, None]
        sources_BP = _sources(row_BH, column_BW, pad_mode)
        parts.append(gather_pixels(images_BCHW[rows], sources_BP, fill_C))
    return torch.cat(parts) if parts else images_BCHW


def cut_out_randomly(images_BCHW: Tensor, side_px: int, fill_C: Tensor, generator: torch.Generator) -> Tensor:
    """Cover a square of each image, at a random centre anywhere in it, with the fill."""
    return cut_out(images_BCHW, side_px, draw_centres(images_BCHW, generator), fill_C)


def _positions(length: int, device: torch.device) -> Tensor:
    return torch.arange(length, device=device)


def _sources(row_BH: Tensor, column_BW: Tensor, pad_mode: Literal["reflect", "constant"]) -> Tensor:
    """Turn rows and columns, some of them outside, into places in the flattened image, int64 [B, P]; P is outside."""
    height, width = row_BH.shape[1], column_BW.shape[1]
    if pad_mode == "reflect":
        row_BH, column_BW = _reflected(row_BH, height), _reflected(column_BW, width)
        inside_BP: Tensor = (row_BH[:, :, None] * width + column_BW[:, None, :]).flatten(1)
        return inside_BP
    pixels = height * width
    row_BH = (row_BH * width).masked_fill_((row_BH < 0) | (row_BH >= height), pixels)
    column_BW = column_BW.masked_fill((column_BW < 0) | (column_BW >= width), pixels)
    sources_BP: Tensor = (row_BH[:, :, None] + column_BW[:, None, :]).flatten(1).clamp_(max=pixels)
    return sources_BP


def _reflected(place_BL: Tensor, length: int) -> Tensor:
    """Fold places back about the first and the last pixel, which are not repeated."""
    folded_BL: Tensor = (length - 1) - ((length - 1) - place_BL.abs()).abs()
    return folded_BL


def _is_heads(ids_B: Tensor, seed: int) -> Tensor:
    """Toss a coin for each number: one bit of its 64-bit mix with the seed (Steele et al., SplitMix, OOPSLA 2014)."""
    mixed_B = ids_B + _signed((seed + 1) * 0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed_B = (mixed_B ^ _shifted(mixed_B, shift)) * _signed(factor)
    return ((mixed_B ^ _shifted(mixed_B, 31)) & 1).bool()


def _shifted(words_B: Tensor, bits: int) -> Tensor:
    """Shift to the right, filling with zeros, though int64 is signed."""
    return (words_B >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    """Give the int64 with the lowest 64 bits of a whole number."""
    word %= _WORD
    return word - _WORD if word >= _WORD // 2 else word

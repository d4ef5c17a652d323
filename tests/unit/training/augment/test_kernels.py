"""Kernels beside torchvision's own (equal to the bit) and beside PIL's (equal, or off by what is stated)."""
# Shapes: B images, C channels, H height, W width.

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from augmented_images import FILLS, op_context, random_images
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional

from training.augment import colour, geometry
from training.augment.ops import get_op

_Reference = Callable[[Image.Image, float, Any], Image.Image]


def _to_pil(image_CHW: Tensor) -> Image.Image:
    image_HWC = image_CHW.permute(1, 2, 0).numpy()
    return Image.fromarray(image_HWC[..., 0] if image_HWC.shape[2] == 1 else image_HWC)


def _from_pil(image: Image.Image) -> Tensor:
    image_HWC = np.array(image)
    return torch.from_numpy(image_HWC.reshape(*image_HWC.shape[:2], -1)).permute(2, 0, 1)


def _affine(image: Image.Image, matrix: tuple[float, ...], fill: Any) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=fill)


# What the original implementation calls, with the signs of its directions.
_PIL: dict[str, _Reference] = {
    "Rotate": lambda image, value, fill: image.rotate(value, Image.Resampling.NEAREST, fillcolor=fill),
    "TranslateX": lambda image, value, fill: _affine(image, (1, 0, -value, 0, 1, 0), fill),
    "TranslateY": lambda image, value, fill: _affine(image, (1, 0, 0, 0, 1, -value), fill),
    "ShearX": lambda image, value, fill: _affine(image, (1, value, 0, 0, 1, 0), fill),
    "ShearY": lambda image, value, fill: _affine(image, (1, 0, 0, value, 1, 0), fill),
    "Brightness": lambda image, value, _: ImageEnhance.Brightness(image).enhance(value),
    "Color": lambda image, value, _: ImageEnhance.Color(image).enhance(value),
    "Contrast": lambda image, value, _: ImageEnhance.Contrast(image).enhance(value),
    "Sharpness": lambda image, value, _: ImageEnhance.Sharpness(image).enhance(value),
    "Posterize": lambda image, value, _: ImageOps.posterize(image, int(value)),
    "Solarize": lambda image, value, _: ImageOps.solarize(image, int(value)),
    "Invert": lambda image, _value, _: ImageOps.invert(image),
    "Equalize": lambda image, _value, _: ImageOps.equalize(image),
    "AutoContrast": lambda image, _value, _: ImageOps.autocontrast(image),
}
_OFF_BY_ONE = {
    "Color": "PIL rounds the grey, torchvision cuts its fraction off",
    "Contrast": "likewise, and PIL rounds the mean too",
    "Sharpness": "the smoothed value is rounded by each in its own arithmetic",
    "AutoContrast": "the scale is float64 in PIL, float32 in torchvision, and fractions are cut off",
}
"""Ops whose values may differ from PIL's by one level of 255, and why; all other values are equal."""
_MOVED_SHARE = {"Rotate": 0.002, "ShearX": 0.5 / 32, "ShearY": 0.5 / 32}
"""Share of pixels whose source may be the next pixel, as it lies half-way between two, where PIL's fixed-point numbers
and float32 are rounded to different sides: in a shear, half of one line at most (m = 4 alone has such a line)."""


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", _PIL)
def test_each_op_at_each_magnitude_is_pils(name: str, channels: int) -> None:
    op = get_op(name)
    images_BCHW = random_images(12, channels)
    fill = FILLS[channels] if channels == 3 else FILLS[channels][0]
    values = [op.value_at(magnitude) for magnitude in range(10)]
    for value in [*values, *(-value for value in values)] if op.has_sign else values:
        changed_BCHW = op.kernel(images_BCHW, value, op_context(channels))
        expected_BCHW = torch.stack([_from_pil(_PIL[name](_to_pil(image), value, fill)) for image in images_BCHW])
        difference_BCHW = (changed_BCHW.int() - expected_BCHW.int()).abs()
        if name in _MOVED_SHARE:
            assert float((difference_BCHW > 0).any(1).float().mean()) <= _MOVED_SHARE[name], value
        else:
            assert int(difference_BCHW.max()) <= (name in _OFF_BY_ONE), value


_FACTORS = [0.0, 0.01, 0.1, 0.28, 0.46, 0.64, 0.82, 1.0, 1.18, 1.36, 1.54, 1.72, 1.99, 5.0]
_COLOURS: dict[str, tuple[Callable[[Tensor, float], Tensor], Callable[[Tensor, float], Any]]] = {
    "brighten": (colour.brighten, functional.adjust_brightness),
    "saturate": (colour.saturate, functional.adjust_saturation),
    "contrast": (colour.contrast, functional.adjust_contrast),
    "sharpen": (colour.sharpen, functional.adjust_sharpness),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", _COLOURS)
def test_factors_give_what_torchvision_gives(name: str, channels: int) -> None:
    ours, torchvisions = _COLOURS[name]
    for height, width in ((32, 32), (7, 3), (2, 9)):
        images_BCHW = random_images(8, channels, height=height, width=width)
        for factor in _FACTORS:
            assert torch.equal(ours(images_BCHW, factor), torchvisions(images_BCHW, factor)), factor


@given(factor=st.floats(0, 3), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_any_factor_gives_what_torchvision_gives(factor: float, seed: int) -> None:
    images_BCHW = random_images(2, height=9, width=11, seed=seed)
    for ours, torchvisions in _COLOURS.values():
        assert torch.equal(ours(images_BCHW, factor), torchvisions(images_BCHW, factor))


def test_values_are_changed_as_torchvision_changes_them() -> None:
    # Every value of a channel, and a flat image, which can't be stretched or evened out.
    images_BCHW = torch.cat([torch.arange(256).view(1, 1, 16, 16), torch.full((1, 1, 16, 16), 77)]).to(torch.uint8)
    for threshold in (0.0, 26.0, 128.0, 153.5, 255.0):
        assert torch.equal(
            colour.solarize(images_BCHW, threshold), functional.solarize(images_BCHW, threshold=threshold)
        )
    assert torch.equal(colour.solarize(images_BCHW, 256.0), images_BCHW)
    for bits in range(9):
        assert torch.equal(colour.posterize(images_BCHW, bits), functional.posterize(images_BCHW, bits=bits))
    assert torch.equal(colour.invert(images_BCHW), functional.invert(images_BCHW))
    assert torch.equal(colour.equalize(images_BCHW), functional.equalize(images_BCHW))
    assert torch.equal(colour.stretch_contrast(images_BCHW), functional.autocontrast(images_BCHW))


def _torchvisions_affine(images_BCHW: Tensor, fill: list[float], **changed: Any) -> Tensor:
    arguments: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], "fill": fill}
    return torch.as_tensor(functional.affine(images_BCHW, **(arguments | changed)))


@given(
    angle=st.floats(-180, 180),
    slope=st.floats(-1, 1),
    pixels=st.integers(-12, 12),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
)
@settings(max_examples=60, deadline=None)
def test_any_movement_is_torchvisions(angle: float, slope: float, pixels: int, height: int, width: int) -> None:
    images_BCHW = random_images(3, height=height, width=width)
    fill_C = torch.tensor(FILLS[3], dtype=torch.uint8)
    fill = [float(value) for value in FILLS[3]]
    degrees = math.degrees(math.atan(slope))
    pairs = [
        (geometry.rotate(images_BCHW, angle, fill_C), functional.rotate(images_BCHW, angle, fill=fill)),
        (
            geometry.shear_x(images_BCHW, slope, fill_C),
            _torchvisions_affine(images_BCHW, fill, shear=[degrees, 0.0], center=[0, 0]),
        ),
        (
            geometry.shear_y(images_BCHW, slope, fill_C),
            _torchvisions_affine(images_BCHW, fill, shear=[0.0, degrees], center=[0, 0]),
        ),
        (
            geometry.translate_x(images_BCHW, pixels, fill_C),
            _torchvisions_affine(images_BCHW, fill, translate=[pixels, 0]),
        ),
        (
            geometry.translate_y(images_BCHW, pixels, fill_C),
            _torchvisions_affine(images_BCHW, fill, translate=[0, pixels]),
        ),
    ]
    for ours, torchvisions in pairs:
        assert torch.equal(ours, torchvisions)


def test_an_image_whose_pixels_float32_cannot_count_is_refused() -> None:
    images_BCHW = torch.zeros(1, 1, 1, dtype=torch.uint8).expand(1, 1, 2**12, 2**12)
    with pytest.raises(ValueError, match="image: got 4096 x 4096 pixels; must be under 16,777,216 pixels"):
        geometry.rotate(images_BCHW, 3.0, torch.zeros(1, dtype=torch.uint8))


def test_a_square_is_cut_where_it_was_asked_for_and_clipped_at_the_border() -> None:
    images_BCHW = torch.zeros(2, 1, 4, 5, dtype=torch.uint8)
    fill_C = torch.tensor([9], dtype=torch.uint8)
    cut_BCHW = geometry.cut_out(images_BCHW, 2, torch.tensor([[1, 0], [2, 4]]), fill_C)
    # Rows 0 and 1, columns 1 and 2; and row 0 (and -1), columns 3 and 4.
    assert cut_BCHW[0, 0].tolist() == [[0, 9, 9, 0, 0], [0, 9, 9, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert cut_BCHW[1, 0].tolist() == [[0, 0, 0, 9, 9], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    # An odd side reaches as far to both sides of its centre.
    cut_BCHW = geometry.cut_out(images_BCHW, 3, torch.tensor([[1, 3], [2, 0]]), fill_C)
    assert cut_BCHW[0, 0].tolist() == [[0, 9, 9, 9, 0], [0, 9, 9, 9, 0], [0, 9, 9, 9, 0], [0, 0, 0, 0, 0]]
    assert cut_BCHW[1, 0].tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [9, 9, 0, 0, 0], [9, 9, 0, 0, 0]]

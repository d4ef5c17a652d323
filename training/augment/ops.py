"""The ops that policies are made of: what a magnitude means to each, and which kernel does it.

Source: Ho et al., "Population Based Augmentation" (ICML 2019, arXiv 1905.05393), table of operations in the appendix.

An op of one's own is registered by name, in a module that every process of a search imports, and from then on is part
of searches, schedule files and plots::

    def blur(images_BCHW, value, context):
        return torchvision.transforms.v2.functional.gaussian_blur(images_BCHW, [3, 3], [value])

    register_op(Op(name="Blur", value_at=lambda magnitude: 0.1 + 0.1 * magnitude, kernel=blur))
"""
# Shapes: B images, C channels (1 or 3), H height, W width.

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from training.augment import colour, geometry
from training.augment.policy import Policy, PolicyEntry
from training.errors import AugmentError

REFERENCE_SIZE_PX = 32
"""Values in pixels are meant on images of this size, CIFAR's; on others they grow and shrink with the image."""
COPIES = 2
"""Times that each op comes into a policy."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OpContext:
    """What a kernel may need besides images and value.

    Attributes:
        fill_C: uint8 [C], the data set's mean colour, on the images' device; of uncovered and cut-out pixels.
        generator: on the CPU, for ops that draw something for each image.
    """

    fill_C: Tensor
    generator: torch.Generator


Kernel = Callable[[Tensor, float, OpContext], Tensor]
"""uint8 [B, C, H, W], a value for all of them, and context → uint8 of the same shape and device."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Op:
    """A way to change an image.

    Attributes:
        name: unique; it stands in policies, files and plots.
        value_at: magnitude 0..9 → value, in the op's own unit.
        kernel: changes images by a value; sees groups of some images, and draws from the context's generator alone.
        has_sign: whether value and -value are equally likely, image by image.
        identity: the value that changes nothing, where there is one; the kernel isn't called for it.
    """

    name: str
    value_at: Callable[[int], float]
    kernel: Kernel
    has_sign: bool = False
    identity: float | None = None


def register_op(op: Op) -> None:
    """Make an op known by its name.

    Raises:
        AugmentError: another op has this name.
    """
    if op.name in _OPS:
        raise AugmentError(f"op: got {op.name!r}; is registered already")
    _OPS[op.name] = op


def get_op(name: str) -> Op:
    """Give the op of a name.

    Raises:
        AugmentError: none has it; the message names those there are.
    """
    if name not in _OPS:
        raise AugmentError(f"op: got {name!r}; must be registered (training.augment.ops); known: {', '.join(_OPS)}")
    return _OPS[name]


def op_names() -> tuple[str, ...]:
    """Name all registered ops: the paper's 15, then others, in the order of registration."""
    return tuple(_OPS)


def initial_policy() -> Policy:
    """Give the policy that a search starts from: two copies of all registered ops, all zero."""
    return tuple(PolicyEntry(op=name) for _ in range(COPIES) for name in _OPS)


def _enhancement_factor(magnitude: int) -> float:
    """Give 0.18 m + 0.1, so that 5 changes nothing; 0 does."""
    return magnitude * 1.8 / 10 + 0.1


def _nothing(_: int) -> float:
    """Stand for the value of an op without magnitude."""
    return 0.0


def _translate_x(images_BCHW: Tensor, value: float, context: OpContext) -> Tensor:
    return geometry.translate_x(images_BCHW, _scaled(value, images_BCHW.shape[-1]), context.fill_C)


def _translate_y(images_BCHW: Tensor, value: float, context: OpContext) -> Tensor:
    return geometry.translate_y(images_BCHW, _scaled(value, images_BCHW.shape[-2]), context.fill_C)


def _cut_out(images_BCHW: Tensor, value: float, context: OpContext) -> Tensor:
    height, width = images_BCHW.shape[-2:]
    side_px = _scaled(value, min(height, width))
    if side_px == 0:
        return images_BCHW
    centres_2B = geometry.draw_centres(images_BCHW, context.generator)
    return geometry.cut_out(images_BCHW, side_px, centres_2B, context.fill_C)


def _scaled(value: float, size_px: int) -> int:
    """Turn pixels of the reference size into whole pixels of another, rounded towards 0."""
    return int(value * size_px / REFERENCE_SIZE_PX)


_PAPERS_OPS = (
    Op(
        name="Rotate",  # degrees
        value_at=lambda magnitude: float(3 * magnitude),
        kernel=lambda images_BCHW, value, context: geometry.rotate(images_BCHW, value, context.fill_C),
        has_sign=True,
        identity=0.0,
    ),
    Op(name="TranslateX", value_at=float, kernel=_translate_x, has_sign=True, identity=0.0),
    Op(name="TranslateY", value_at=float, kernel=_translate_y, has_sign=True, identity=0.0),
    Op(
        name="ShearX",  # slope
        value_at=lambda magnitude: magnitude * 0.3 / 10,
        kernel=lambda images_BCHW, value, context: geometry.shear_x(images_BCHW, value, context.fill_C),
        has_sign=True,
        identity=0.0,
    ),
    Op(
        name="ShearY",
        value_at=lambda magnitude: magnitude * 0.3 / 10,
        kernel=lambda images_BCHW, value, context: geometry.shear_y(images_BCHW, value, context.fill_C),
        has_sign=True,
        identity=0.0,
    ),
    Op(
        name="Brightness",  # factor
        value_at=_enhancement_factor,
        kernel=lambda images_BCHW, value, _: colour.brighten(images_BCHW, value),
        identity=1.0,
    ),
    Op(
        name="Color",
        value_at=_enhancement_factor,
        kernel=lambda images_BCHW, value, _: colour.saturate(images_BCHW, value),
        identity=1.0,
    ),
    Op(
        name="Contrast",
        value_at=_enhancement_factor,
        kernel=lambda images_BCHW, value, _: colour.contrast(images_BCHW, value),
        identity=1.0,
    ),
    Op(
        name="Sharpness",
        value_at=_enhancement_factor,
        kernel=lambda images_BCHW, value, _: colour.sharpen(images_BCHW, value),
        identity=1.0,
    ),
    Op(
        name="Posterize",  # bits kept
        value_at=lambda magnitude: float(4 - int(magnitude * 4 / 10)),
        kernel=lambda images_BCHW, value, _: colour.posterize(images_BCHW, int(value)),
        identity=8.0,
    ),
    Op(
        name="Solarize",  # threshold
        value_at=lambda magnitude: float(256 - int(magnitude * 256 / 10)),
        kernel=lambda images_BCHW, value, _: colour.solarize(images_BCHW, value),
        identity=256.0,
    ),
    Op(
        name="Cutout",  # pixels of the square's side
        value_at=lambda magnitude: float(2 * magnitude),
        kernel=_cut_out,
        identity=0.0,
    ),
    Op(name="Invert", value_at=_nothing, kernel=lambda images_BCHW, _value, _: colour.invert(images_BCHW)),
    Op(name="Equalize", value_at=_nothing, kernel=lambda images_BCHW, _value, _: colour.equalize(images_BCHW)),
    Op(
        name="AutoContrast",
        value_at=_nothing,
        kernel=lambda images_BCHW, _value, _: colour.stretch_contrast(images_BCHW),
    ),
)
_OPS: dict[str, Op] = {op.name: op for op in _PAPERS_OPS}

"""RandAugment, TrivialAugment and AutoAugment: policies that no search is run for, drawn image by image.

Spaces, magnitudes and AutoAugment's policies are read off torchvision's own transforms, which draw once a call for all
images alike; here each image draws for itself, and the kernels are called once a group, as for policies of a search.
"""
# Shapes: B images, C channels, H height, W width, S slots.

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from training.augment import colour, geometry
from training.augment.augmentation import Moment
from training.augment.config import RANDAUGMENT_BINS
from training.augment.deck import NO_CARD, Card, apply_cards
from training.augment.ops import Kernel, OpContext

_AUTOAUGMENT_BINS = 10
_Space = Mapping[str, tuple[Callable[[int, int, int], Tensor | None], bool]]
"""torchvision's: op → (magnitudes of some bins for a height and a width, whether it has a sign)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RandAugmentation:
    """Some ops an image, each drawn evenly, all at one magnitude (Cubuk et al., arXiv 1909.13719).

    Attributes:
        ops: an image.
        magnitude: 0..30.
        fill: colour of uncovered pixels, 0..255 a channel.
    """

    ops: int
    magnitude: int
    fill: tuple[int, ...]

    def __call__(self, images_BCHW: Tensor, ids_B: Tensor, moment: Moment, generator: torch.Generator) -> Tensor:
        """Apply to each image what it draws (see ``Augmentation``)."""
        del ids_B, moment
        space = _read(v2.RandAugment, "_AUGMENTATION_SPACE")
        deck = [_cards(space, name, RANDAUGMENT_BINS, images_BCHW)[self.magnitude] for name in space]
        cards_BS = torch.randint(len(deck), (len(images_BCHW), self.ops), generator=generator)
        return apply_cards(images_BCHW, deck, cards_BS, _context(images_BCHW, self.fill, generator))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrivialAugmentation:
    """One op an image, drawn evenly, at a magnitude drawn evenly, in the wide space (Müller and Hutter, 2103.10158).

    Attributes:
        fill: colour of uncovered pixels, 0..255 a channel.
    """

    fill: tuple[int, ...]

    def __call__(self, images_BCHW: Tensor, ids_B: Tensor, moment: Moment, generator: torch.Generator) -> Tensor:
        """Apply to each image what it draws (see ``Augmentation``)."""
        del ids_B, moment
        space = _read(v2.TrivialAugmentWide, "_AUGMENTATION_SPACE")
        hands = [_cards(space, name, RANDAUGMENT_BINS, images_BCHW) for name in space]
        deck = [card for cards in hands for card in cards]
        op_B, magnitude_B = (
            torch.randint(end, (len(images_BCHW),), generator=generator) for end in (len(space), RANDAUGMENT_BINS)
        )
        cards_BS = (op_B * RANDAUGMENT_BINS + magnitude_B)[:, None]
        return apply_cards(images_BCHW, deck, cards_BS, _context(images_BCHW, self.fill, generator))


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoAugmentation:
    """One of 25 published pairs an image, each op of it with its own probability (Cubuk et al., arXiv 1805.09501).

    Attributes:
        policy: data set that the pairs were found on: ``cifar10``, ``svhn`` or ``imagenet``.
        fill: colour of uncovered pixels, 0..255 a channel.
    """

    policy: str
    fill: tuple[int, ...]

    def __call__(self, images_BCHW: Tensor, ids_B: Tensor, moment: Moment, generator: torch.Generator) -> Tensor:
        """Apply to each image what it draws (see ``Augmentation``)."""
        del ids_B, moment
        space = _read(v2.AutoAugment, "_AUGMENTATION_SPACE")
        pairs = _read(v2.AutoAugment(v2.AutoAugmentPolicy(self.policy)), "_policies")
        steps = [step for pair in pairs for step in pair]
        hands = {name: _cards(space, name, _AUTOAUGMENT_BINS, images_BCHW) for name in space}
        deck = [hands[name][magnitude or 0] for name, _, magnitude in steps]
        pair_B = torch.randint(len(pairs), (len(images_BCHW),), generator=generator)
        cards_BS = 2 * pair_B[:, None] + torch.arange(2)
        probability = torch.tensor([probability for _, probability, _ in steps])
        is_applied_BS = torch.rand(cards_BS.shape, generator=generator) < probability[cards_BS]
        cards_BS = cards_BS.masked_fill(~is_applied_BS, NO_CARD)
        return apply_cards(images_BCHW, deck, cards_BS, _context(images_BCHW, self.fill, generator))


def _read(transform: object, name: str) -> Any:
    """Read what torchvision keeps to itself: copies of its tables would have to be kept in step by hand."""
    return getattr(transform, name)


def _context(images_BCHW: Tensor, fill: Sequence[int], generator: torch.Generator) -> OpContext:
    fill_C = torch.tensor(fill, dtype=torch.uint8, device=images_BCHW.device)
    return OpContext(fill_C=fill_C, generator=generator)


def _cards(space: _Space, name: str, bins: int, images_BCHW: Tensor) -> list[Card]:
    """Make an op's cards, one for each magnitude; the same one again and again where it has none."""
    magnitudes_of, has_sign = space[name]
    magnitudes = magnitudes_of(bins, images_BCHW.shape[-2], images_BCHW.shape[-1])
    kernel, value_of, identity = _OPS[name]
    if magnitudes is None:
        return [Card(name=name, kernel=kernel, values=(0.0,), identity=identity)] * bins
    signed = [(value, -value) if has_sign and value else (value,) for value in magnitudes.tolist()]
    return [
        Card(name=name, kernel=kernel, values=tuple(value_of(value) for value in values), identity=identity)
        for values in signed
    ]


def _same(value: float) -> float:
    return value


def _factor(magnitude: float) -> float:
    return 1.0 + magnitude


_Row = tuple[Kernel, Callable[[float], float], float | None]
_OPS: dict[str, _Row] = {
    "Identity": (lambda images_BCHW, _value, _: images_BCHW, _same, 0.0),
    "ShearX": (lambda images_BCHW, value, context: geometry.shear_x(images_BCHW, value, context.fill_C), _same, 0.0),
    "ShearY": (lambda images_BCHW, value, context: geometry.shear_y(images_BCHW, value, context.fill_C), _same, 0.0),
    "TranslateX": (
        lambda images_BCHW, value, context: geometry.translate_x(images_BCHW, int(value), context.fill_C), int, 0.0
    ),
    "TranslateY": (
        lambda images_BCHW, value, context: geometry.translate_y(images_BCHW, int(value), context.fill_C), int, 0.0
    ),
    "Rotate": (lambda images_BCHW, value, context: geometry.rotate(images_BCHW, value, context.fill_C), _same, 0.0),
    "Brightness": (lambda images_BCHW, value, _: colour.brighten(images_BCHW, value), _factor, 1.0),
    "Color": (lambda images_BCHW, value, _: colour.saturate(images_BCHW, value), _factor, 1.0),
    "Contrast": (lambda images_BCHW, value, _: colour.contrast(images_BCHW, value), _factor, 1.0),
    "Sharpness": (lambda images_BCHW, value, _: colour.sharpen(images_BCHW, value), _factor, 1.0),
    "Posterize": (lambda images_BCHW, value, _: colour.posterize(images_BCHW, int(value)), _same, 8.0),
    "Solarize": (lambda images_BCHW, value, _: colour.solarize(images_BCHW, value), lambda share: 255 * share, None),
    "AutoContrast": (lambda images_BCHW, _value, _: colour.stretch_contrast(images_BCHW), _same, None),
    "Equalize": (lambda images_BCHW, _value, _: colour.equalize(images_BCHW), _same, None),
    "Invert": (lambda images_BCHW, _value, _: colour.invert(images_BCHW), _same, None),
}  # fmt: skip

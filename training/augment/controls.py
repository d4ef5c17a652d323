"""RandAugment, TrivialAugment and AutoAugment: policies that no search is run for, drawn image by image.

Spaces, magnitudes and AutoAugment's policies are read off torchvision's own transforms, which draw once a call for all
images alike; here each image draws for itself, and the kernels are called once a group, as for policies of a search.
"""
# Shapes: B images, C channels, H height, W width, S slots.

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torchvision
from torch import Tensor
from torchvision.transforms import v2

from training.augment import colour, geometry
from training.augment.augmentation import Moment
from training.augment.config import RANDAUGMENT_BINS
from training.augment.deck import NO_CARD, Card, apply_cards
from training.augment.ops import Kernel, OpContext
from training.augment.sending import send
from training.errors import AugmentError

_AUTOAUGMENT_BINS = 10
_Space = Mapping[str, tuple[Callable[[int, int, int], Tensor | None], bool]]
"""torchvision's: op → (magnitudes of some bins for a height and a width, whether it has a sign)."""
_Step = tuple[str, float, int | None]
"""torchvision's: op, probability, place of its magnitude among ten."""


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
        space = _space(v2.RandAugment)
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
        space = _space(v2.TrivialAugmentWide)
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
        space = _space(v2.AutoAugment)
        pairs = _pairs(self.policy, space)
        steps = [step for pair in pairs for step in pair]
        hands = {name: _cards(space, name, _AUTOAUGMENT_BINS, images_BCHW) for name in space}
        deck = [hands[name][magnitude or 0] for name, _, magnitude in steps]
        pair_B = torch.randint(len(pairs), (len(images_BCHW),), generator=generator)
        cards_BS = 2 * pair_B[:, None] + torch.arange(2)
        probability = torch.tensor([probability for _, probability, _ in steps])
        is_applied_BS = torch.rand(cards_BS.shape, generator=generator) < probability[cards_BS]
        cards_BS = cards_BS.masked_fill(~is_applied_BS, NO_CARD)
        return apply_cards(images_BCHW, deck, cards_BS, _context(images_BCHW, self.fill, generator))


def _space(transform: type[object]) -> _Space:
    """Read the ops of one of torchvision's transforms, and check that they are what this module takes them to be.

    torchvision keeps them to itself; copies of its tables would have to be kept in step by hand.

    Raises:
        AugmentError: this version of torchvision has them otherwise.
    """
    space: Any = getattr(transform, "_AUGMENTATION_SPACE", None)
    try:
        unknown = [
            name
            for name, (magnitudes_of, has_sign) in space.items()
            if not (name in _OPS and callable(magnitudes_of) and isinstance(has_sign, bool))
        ]
    except (AttributeError, TypeError, ValueError) as error:
        raise _unlike_ours(transform, "ops") from error
    if unknown or not space:
        raise _unlike_ours(transform, "ops")
    return cast("_Space", space)


def _pairs(policy: str, space: _Space) -> Sequence[Sequence[_Step]]:
    """Read AutoAugment's pairs as torchvision has them, likewise.

    Raises:
        AugmentError: this version of torchvision has them otherwise.
    """
    pairs: Any = getattr(v2.AutoAugment(v2.AutoAugmentPolicy(policy)), "_policies", None)
    try:
        unknown = [
            name
            for first, second in pairs
            for name, probability, magnitude in (first, second)
            if not (name in space and 0 <= probability <= 1 and 0 <= (magnitude or 0) < _AUTOAUGMENT_BINS)
        ]
    except (TypeError, ValueError) as error:
        raise _unlike_ours(v2.AutoAugment, f"pairs for {policy!r}") from error
    if unknown or not pairs:
        raise _unlike_ours(v2.AutoAugment, f"pairs for {policy!r}")
    return cast("Sequence[Sequence[_Step]]", pairs)


def _unlike_ours(transform: type[object], what: str) -> AugmentError:
    return AugmentError(
        f"torchvision {torchvision.__version__}: keeps the {what} of {transform.__name__} otherwise than those versions"
        " that this was written for; must be one of 0.24 to 0.29, or another that keeps them so"
    )


def _context(images_BCHW: Tensor, fill: Sequence[int], generator: torch.Generator) -> OpContext:
    fill_C = send(torch.tensor(fill, dtype=torch.uint8), images_BCHW.device)
    return OpContext(fill_C=fill_C, generator=generator)


def _cards(space: _Space, name: str, bins: int, images_BCHW: Tensor) -> list[Card]:
    """Make an op's cards, one for each magnitude; the same one again and again where it has none."""
    magnitudes_of, has_sign = space[name]
    magnitudes = magnitudes_of(bins, *images_BCHW.shape[-2:])
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

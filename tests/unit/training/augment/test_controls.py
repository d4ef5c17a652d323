"""RandAugment, TrivialAugment, AutoAugment: each op is torchvision's, and each image draws for itself."""
# Shapes: B images, C channels, H height, W width.

from typing import Any

import pytest
import torch
from augmented_images import FILLS, op_context, random_images, seeded
from scipy.stats import chisquare
from torch import Tensor
from torchvision.transforms import v2

from training.augment import controls
from training.augment.augmentation import Augmentation, Moment
from training.augment.controls import AutoAugmentation, RandAugmentation, TrivialAugmentation
from training.augment.deck import Card
from training.errors import AugmentError

_BINS = 31


def _run(augmentation: Augmentation, images_BCHW: Tensor, seed: int = 0) -> Tensor:
    return augmentation(images_BCHW, torch.arange(len(images_BCHW)), Moment(epoch=0, epochs=1), seeded(seed))


def _transforms() -> list[tuple[Any, int]]:
    fill = [float(value) for value in FILLS[3]]
    return [
        (v2.RandAugment(fill=fill), _BINS),
        (v2.TrivialAugmentWide(fill=fill), _BINS),
        (v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=fill), 10),
    ]


@pytest.mark.parametrize("transform_bins", _transforms(), ids=["rand", "trivial", "auto"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (12, 20)])
def test_every_card_does_what_torchvision_does(transform_bins: tuple[Any, int], height: int, width: int) -> None:
    transform, bins = transform_bins
    images_BCHW = random_images(4, height=height, width=width)
    space = transform._AUGMENTATION_SPACE
    for name, (magnitudes_of, has_sign) in space.items():
        magnitudes = magnitudes_of(bins, height, width)
        cards = controls._cards(space, name, bins, images_BCHW)
        assert len(cards) == bins
        for place, card in enumerate(cards):
            magnitude = 0.0 if magnitudes is None else float(magnitudes[place])
            signed = (magnitude, -magnitude) if has_sign and magnitude else (magnitude,)
            assert len(card.values) == len(signed)
            for value, expected in zip(card.values, signed, strict=True):
                # What torchvision does once it has drawn op, magnitude and sign.
                expected_BCHW = transform._apply_image_or_video_transform(
                    images_BCHW, name, expected, transform.interpolation, transform._fill
                )
                changed_BCHW = card.kernel(images_BCHW, value, op_context())
                assert torch.equal(changed_BCHW, expected_BCHW), (name, expected)
                if value == card.identity:
                    assert torch.equal(changed_BCHW, images_BCHW)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Card], Tensor]]:
    """Note what is drawn in place of applying it."""
    drawn: list[tuple[list[Card], Tensor]] = []

    def note(images_BCHW: Tensor, deck: list[Card], cards_BS: Tensor, _: object) -> Tensor:
        drawn.append((deck, cards_BS))
        return images_BCHW

    monkeypatch.setattr(controls, "apply_cards", note)
    return drawn


def test_randaugment_draws_ops_evenly_at_one_magnitude(held: list[tuple[list[Card], Tensor]]) -> None:
    _run(RandAugmentation(ops=3, magnitude=20, fill=(0,)), torch.zeros(14_000, 1, 32, 32, dtype=torch.uint8))
    ((deck, cards_BS),) = held
    assert cards_BS.shape == (14_000, 3)
    assert [card.name for card in deck] == list(v2.RandAugment._AUGMENTATION_SPACE)
    for cards_B in cards_BS.unbind(1):
        assert chisquare(torch.bincount(cards_B, minlength=14).tolist()).pvalue > 0.001
    values = {card.name: card.values for card in deck}
    # Place 20 of 0..30: two thirds of the range.
    assert values["Rotate"] == pytest.approx((20.0, -20.0))
    assert values["Brightness"] == pytest.approx((1.6, 0.4))
    assert values["Solarize"] == pytest.approx((85.0,))


def test_trivialaugment_draws_one_op_at_any_magnitude_evenly(held: list[tuple[list[Card], Tensor]]) -> None:
    _run(TrivialAugmentation(fill=(0,)), torch.zeros(50_000, 1, 32, 32, dtype=torch.uint8))
    ((deck, cards_BS),) = held
    assert cards_BS.shape == (50_000, 1)
    assert len(deck) == 14 * _BINS
    assert chisquare(torch.bincount(cards_BS[:, 0], minlength=len(deck)).tolist()).pvalue > 0.001
    assert deck[5 * _BINS + 30].name == "Rotate"
    assert deck[5 * _BINS + 30].values == (135.0, -135.0)


@pytest.mark.parametrize(("policy", "first"), [("cifar10", "Invert"), ("svhn", "ShearX"), ("imagenet", "Posterize")])
def test_autoaugment_draws_a_published_pair_and_each_op_with_its_probability(
    policy: str, first: str, held: list[tuple[list[Card], Tensor]]
) -> None:
    images = 25_000
    _run(AutoAugmentation(policy=policy, fill=(0,)), torch.zeros(images, 1, 32, 32, dtype=torch.uint8))
    ((deck, cards_BS),) = held
    assert len(deck) == 50
    assert deck[0].name == first
    pairs = v2.AutoAugment(v2.AutoAugmentPolicy(policy))._policies
    for pair, steps in enumerate(pairs):
        for slot, (name, probability, _) in enumerate(steps):
            assert deck[2 * pair + slot].name == name
            share = float((cards_BS[:, slot] == 2 * pair + slot).float().mean())
            # 1,000 images a pair; five standard deviations of their share.
            assert abs(share - probability / 25) < 5 * (0.04 / images) ** 0.5
    # Both of an image's ops are of one pair.
    both_BS = cards_BS[(cards_BS >= 0).all(1)]
    assert torch.equal(both_BS[:, 0] + 1, both_BS[:, 1])


@pytest.mark.parametrize(
    "augmentation",
    [
        RandAugmentation(ops=2, magnitude=9, fill=FILLS[3]),
        TrivialAugmentation(fill=FILLS[3]),
        AutoAugmentation(policy="cifar10", fill=FILLS[3]),
    ],
    ids=["rand", "trivial", "auto"],
)
def test_images_are_changed_each_in_its_own_way_by_the_generator_alone(augmentation: Augmentation) -> None:
    images_BCHW = random_images(1).expand(200, -1, -1, -1)
    state = torch.get_rng_state()
    first_BCHW, again_BCHW = (_run(augmentation, images_BCHW) for _ in range(2))
    assert torch.equal(first_BCHW, again_BCHW)
    assert torch.equal(state, torch.get_rng_state())
    assert len(first_BCHW.unique(dim=0)) > 20


_SAME = (lambda bins, height, width: torch.zeros(bins), False)


@pytest.mark.parametrize(
    "space",
    [
        None,
        {},
        {"Identity": _SAME, "Swirl": _SAME},
        {"Identity": (_SAME[0], False, 1.0)},
        {"Identity": (None, False)},
        ["Identity"],
    ],
    ids=["absent", "empty", "unknown op", "other rows", "no magnitudes", "no table"],
)
@pytest.mark.parametrize(
    ("transform", "augmentation"),
    [
        (v2.RandAugment, RandAugmentation(ops=2, magnitude=9, fill=FILLS[3])),
        (v2.TrivialAugmentWide, TrivialAugmentation(fill=FILLS[3])),
        (v2.AutoAugment, AutoAugmentation(policy="cifar10", fill=FILLS[3])),
    ],
    ids=["rand", "trivial", "auto"],
)
def test_a_torchvision_with_other_ops_is_refused(
    transform: type[object], augmentation: Augmentation, space: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transform, "_AUGMENTATION_SPACE", space)
    with pytest.raises(AugmentError, match=rf"^torchvision .*: keeps the ops of {transform.__name__} otherwise than"):
        _run(augmentation, random_images(2))


@pytest.mark.parametrize(
    "pairs", [None, [], [("Rotate", 0.5, 3)], [(("Swirl", 0.5, 3), ("Rotate", 0.5, 3))], [(("Rotate", 0.5, 10),) * 2]]
)
def test_a_torchvision_with_other_pairs_is_refused(pairs: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v2.AutoAugment, "_get_policies", lambda *_: pairs)
    with pytest.raises(AugmentError, match=r"the pairs for 'svhn' of AutoAugment otherwise .*0\.24 to 0\.29"):
        _run(AutoAugmentation(policy="svhn", fill=FILLS[3]), random_images(2))

"""Cards: whole batches by groups give what image by image gives."""
# Shapes: B images, C channels, H height, W width, S slots.

import pytest
import torch
from augmented_images import op_context, random_images, seeded
from torch import Tensor

from training.augment.deck import NO_CARD, Card, apply_cards
from training.augment.ops import OpContext, get_op, op_names
from training.errors import AugmentError


def _add(images_BCHW: Tensor, value: float, _: OpContext) -> Tensor:
    return images_BCHW + int(value)


def _double(images_BCHW: Tensor, _value: float, _: OpContext) -> Tensor:
    return images_BCHW * 2


def _black(images: int) -> Tensor:
    return torch.zeros(images, 1, 2, 2, dtype=torch.uint8)


def test_cards_are_applied_slot_by_slot_and_images_without_any_stay() -> None:
    deck = [Card(name="add", kernel=_add, values=(3.0,)), Card(name="double", kernel=_double, values=(0.0,))]
    images_BCHW = _black(5)
    cards_BS = torch.tensor([[0, 1], [1, 0], [NO_CARD, 0], [0, 0], [NO_CARD, NO_CARD]])
    changed_BCHW = apply_cards(images_BCHW, deck, cards_BS, op_context(1))
    assert changed_BCHW[:, 0, 0, 0].tolist() == [6, 3, 3, 6, 0]
    assert int(images_BCHW.max()) == 0


def test_a_value_that_changes_nothing_is_not_computed() -> None:
    def fail(_images_BCHW: Tensor, value: float, _: OpContext) -> Tensor:
        raise AssertionError(value)

    deck = [Card(name="fail", kernel=fail, values=(1.0,), identity=1.0)]
    images_BCHW = random_images(3)
    changed_BCHW = apply_cards(images_BCHW, deck, torch.zeros(3, 1, dtype=torch.int64), op_context())
    assert torch.equal(changed_BCHW, images_BCHW)


def test_each_of_two_values_is_as_likely_image_by_image() -> None:
    deck = [Card(name="add", kernel=_add, values=(1.0, 7.0))]
    changed_BCHW = apply_cards(_black(4000), deck, torch.zeros(4000, 1, dtype=torch.int64), op_context(1))
    values_B, counts = changed_BCHW[:, 0, 0, 0].unique(return_counts=True)
    assert values_B.tolist() == [1, 7]
    # Five standard deviations of a fair coin's 4,000 tosses.
    assert abs(int(counts[0]) - 2000) < 160


def test_the_same_card_in_several_places_makes_one_group() -> None:
    sizes = []

    def note(images_BCHW: Tensor, _value: float, _: OpContext) -> Tensor:
        sizes.append(len(images_BCHW))
        return images_BCHW

    deck = [Card(name="note", kernel=note, values=(2.0,)), Card(name="note", kernel=note, values=(2.0,))]
    apply_cards(_black(6), deck, torch.tensor([[0], [1], [0], [1], [1], [0]]), op_context(1))
    assert sizes == [6]


def test_a_kernel_sees_a_bounded_number_of_values_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.augment.deck._GROUP_VALUES", 341 * 3072 + 1)
    sizes = []

    def note(images_BCHW: Tensor, _value: float, _: OpContext) -> Tensor:
        sizes.append(len(images_BCHW))
        return images_BCHW + 1

    deck = [Card(name="note", kernel=note, values=(0.0,))]
    images_BCHW = torch.zeros(700, 3, 32, 32, dtype=torch.uint8)
    changed_BCHW = apply_cards(images_BCHW, deck, torch.zeros(700, 1, dtype=torch.int64), op_context())
    assert sizes == [341, 341, 18]
    assert bool((changed_BCHW == 1).all())


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 32, 32), (1, 8, 8), (3, 5, 7)])
def test_a_batch_gets_what_each_image_would_get_alone(channels: int, height: int, width: int) -> None:
    names = [name for name in op_names() if name != "Cutout"]  # which draws
    deck = [
        Card(name=name, kernel=get_op(name).kernel, values=(get_op(name).value_at(magnitude),))
        for name in names
        for magnitude in (2, 7)
    ]
    images_BCHW = random_images(150, channels, height=height, width=width)
    cards_BS = torch.randint(NO_CARD, len(deck), (150, 2), generator=seeded(1))
    changed_BCHW = apply_cards(images_BCHW, deck, cards_BS, op_context(channels))
    for image, cards, changed in zip(images_BCHW, cards_BS.tolist(), changed_BCHW, strict=True):
        expected_BCHW = image[None]
        for card in cards:
            if card != NO_CARD:
                expected_BCHW = deck[card].kernel(expected_BCHW, deck[card].values[0], op_context(channels))
        assert torch.equal(changed, expected_BCHW[0])


def test_channels_last_images_and_empty_batches_are_taken_too() -> None:
    deck = [Card(name="add", kernel=_add, values=(3.0,))]
    images_BCHW = random_images(4).contiguous(memory_format=torch.channels_last)
    cards_BS = torch.zeros(4, 1, dtype=torch.int64)
    assert torch.equal(apply_cards(images_BCHW, deck, cards_BS, op_context()), images_BCHW + 3)
    assert len(apply_cards(images_BCHW[:0], deck, cards_BS[:0], op_context())) == 0


@pytest.mark.parametrize(
    ("kernel", "got"),
    [
        (lambda images, _value, _context: images.float(), r"torch.float32 \[2, 1, 2, 2\]"),
        (lambda images, _value, _context: images[:, :, :1], r"torch.uint8 \[2, 1, 1, 2\]"),
    ],
    ids=["dtype", "shape"],
)
def test_a_kernel_that_gives_something_else_is_named(kernel: object, got: str) -> None:
    assert callable(kernel)
    deck = [Card(name="Odd", kernel=kernel, values=(0.0,))]
    with pytest.raises(AugmentError, match=rf"op 'Odd': got {got} from its kernel; must be uint8 \[2, 1, 2, 2\]"):
        apply_cards(_black(2), deck, torch.zeros(2, 1, dtype=torch.int64), op_context(1))

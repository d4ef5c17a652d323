"""Apply to each image of a batch the ops that were drawn for it, group by group.

A deck lists everything that may be done; each image holds a few cards of it, in order. Images with the same card, and
the same value of it, form a group, and the kernel is called once a group: some dozens of calls for thousands of images.
"""
# Shapes: B images, C channels, H height, W width, S slots (cards that an image holds at most), G images of a group.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.augment.ops import Kernel, OpContext
from training.augment.sending import send
from training.errors import AugmentError

NO_CARD = -1
"""In place of a card's number: this slot is empty."""
_MAX_VALUES = 2
_GROUP_VALUES = 2**22
"""Pixel values that a kernel sees at a time: bounds its memory. The same on every device, since an op may draw."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """An op at a value.

    Attributes:
        name: the op's.
        kernel: does it.
        values: one, or two that are equally likely, such as 3 and -3.
        identity: the value that changes nothing, where there is one.
    """

    name: str
    kernel: Kernel
    values: tuple[float, ...]
    identity: float | None = None


def apply_cards(images_BCHW: Tensor, deck: Sequence[Card], cards_BS: Tensor, context: OpContext) -> Tensor:
    """Apply each image's cards, slot by slot.

    Args:
        images_BCHW: uint8 [B, C, H, W], C is 1 or 3 for most kernels; not changed.
        deck: what the cards are.
        cards_BS: int64 [B, S] on the CPU, places in the deck, or ``NO_CARD``.
        context: fill and generator; which of a card's values an image gets is drawn from it.

    Returns:
        uint8, of the same shape and on the same device.

    Raises:
        AugmentError: a kernel gave something else than such images.
    """
    changed_BCHW = images_BCHW.clone(memory_format=torch.contiguous_format)
    rows_at_once = max(1, _GROUP_VALUES // max(1, images_BCHW[0].numel())) if len(images_BCHW) else 1
    for card, value, rows_G in _groups(deck, cards_BS, context.generator, images_BCHW.device):
        if value == card.identity:
            continue
        for rows in rows_G.split(rows_at_once):
            _change(changed_BCHW, rows, card, value, context)
    return changed_BCHW


def _groups(
    deck: Sequence[Card], cards_BS: Tensor, generator: torch.Generator, device: torch.device
) -> Iterator[tuple[Card, float, Tensor]]:
    """Give, slot after slot, each card and value with the rows that hold it, int64 [G] on the device."""
    sides_BS = torch.randint(_MAX_VALUES, cards_BS.shape, generator=generator)
    # A card that is in the deck several times makes one group.
    places: dict[Card, int] = {}
    first_of = torch.tensor([places.setdefault(card, place) for place, card in enumerate(deck)], dtype=torch.int64)
    is_single = torch.tensor([len(card.values) == 1 for card in deck], dtype=torch.bool)
    slot_G, row_G = torch.nonzero(cards_BS.T != NO_CARD, as_tuple=True)
    card_G = first_of[cards_BS[row_G, slot_G]]
    side_G = sides_BS[row_G, slot_G].masked_fill(is_single[card_G], 0)
    key_G = _MAX_VALUES * (slot_G * len(deck) + card_G) + side_G
    order_G = key_G.argsort(stable=True)
    counts = torch.bincount(key_G).tolist()
    # One copy to the device for all slots, of which the groups are views.
    for key, rows_G in enumerate(send(row_G[order_G], device).split(counts)):
        if len(rows_G):
            card = deck[key // _MAX_VALUES % len(deck)]
            yield card, card.values[key % _MAX_VALUES], rows_G


def _change(changed_BCHW: Tensor, rows_G: Tensor, card: Card, value: float, context: OpContext) -> None:
    group_GCHW = changed_BCHW.index_select(0, rows_G)
    given_GCHW = card.kernel(group_GCHW, value, context)
    if given_GCHW.dtype != torch.uint8 or given_GCHW.shape != group_GCHW.shape:
        raise AugmentError(
            f"op {card.name!r}: got {given_GCHW.dtype} {list(given_GCHW.shape)} from its kernel;"
            f" must be uint8 {list(group_GCHW.shape)}"
        )
    _in_words(changed_BCHW).index_copy_(0, rows_G, _in_words(given_GCHW.contiguous()))


def _in_words(images_BCHW: Tensor) -> Tensor:
    """View each image as 8-byte words where it can be: copying rows so is ten times faster on a CPU than by bytes."""
    flat = images_BCHW.view(len(images_BCHW), -1)
    return flat.view(torch.int64) if flat.shape[1] % 8 == 0 else flat

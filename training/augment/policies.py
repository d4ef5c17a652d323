"""Policies on whole batches: each image draws its own ops from a policy of the schedule.

Source: Ho et al., "Population Based Augmentation" (ICML 2019, arXiv 1905.05393), algorithm 2.
"""
# Shapes: B images, C channels, H height, W width, E entries of a policy, S slots, K policies.

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.augment.augmentation import Moment
from training.augment.deck import NO_CARD, Card, apply_cards
from training.augment.ops import OpContext, get_op
from training.augment.policy import MAX_PROBABILITY, Policy, PolicyEntry, PolicySchedule
from training.augment.sending import send

COUNT_SHARES = (0.2, 0.3, 0.5)
"""Probability that 0, 1, 2 ops are applied to an image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduledPolicies:
    """The schedule's policy of the epoch, stretched to the run's length.

    Attributes:
        schedule: its ops are registered.
        fill: colour of uncovered pixels, 0..255 a channel.
    """

    schedule: PolicySchedule
    fill: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_ops(self.schedule)

    def __call__(self, images_BCHW: Tensor, ids_B: Tensor, moment: Moment, generator: torch.Generator) -> Tensor:
        """Apply to each image what it draws from the epoch's policy (see ``Augmentation``)."""
        del ids_B
        policy = self.schedule.policy_at(moment.epoch, moment.epochs)
        return _apply_policies(images_BCHW, [policy], [1], self.fill, generator)


@dataclass(frozen=True, kw_only=True, slots=True)
class FlattenedPolicies:
    """At each epoch, each image takes a policy of the schedule at random: the paper's ablation of the order.

    A policy is as likely as its share of the schedule's epochs.

    Attributes:
        schedule: its ops are registered.
        fill: colour of uncovered pixels, 0..255 a channel.
    """

    schedule: PolicySchedule
    fill: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_ops(self.schedule)

    def __call__(self, images_BCHW: Tensor, ids_B: Tensor, moment: Moment, generator: torch.Generator) -> Tensor:
        """Apply to each image what it draws from its policy (see ``Augmentation``)."""
        del ids_B, moment
        policies, epochs = flatten(self.schedule)
        return _apply_policies(images_BCHW, policies, epochs, self.fill, generator)


def flatten(schedule: PolicySchedule) -> tuple[tuple[Policy, ...], tuple[int, ...]]:
    """Take the order out of a schedule: its policies, and the epochs that each is in force."""
    segments = schedule.segments
    return tuple(segment.policy for segment in segments), tuple(segment.epochs for segment in segments)


def walk(places_BE: Tensor, is_accepted_BE: Tensor, counts_B: Tensor) -> Tensor:
    """Walk each image's shuffled entries, and take those accepted until its count is reached.

    Args:
        places_BE: float32 [B, E], finite; an image's entries are walked from the smallest on.
        is_accepted_BE: bool [B, E], whether the entry would be applied if it were reached.
        counts_B: int64 [B], entries to take, at most ``len(COUNT_SHARES) - 1``.

    Returns:
        int64 [B, S], entries in the order of the walk, then ``NO_CARD``; S is ``len(COUNT_SHARES) - 1``, or fewer where
        the policy has fewer entries.
    """
    slots = min(len(COUNT_SHARES) - 1, places_BE.shape[1])
    first = places_BE.masked_fill(~is_accepted_BE, math.inf).topk(slots, dim=1, largest=False, sorted=True)
    is_taken_BS = first.values.isfinite() & (torch.arange(slots) < counts_B[:, None])
    return first.indices.masked_fill(~is_taken_BS, NO_CARD)


def draw_entries(probabilities_BE: Tensor, generator: torch.Generator) -> Tensor:
    """Draw what is applied to each image.

    Args:
        probabilities_BE: float32 [B, E] of each image's entries.
        generator: on the CPU.

    Returns:
        int64 [B, S], as ``walk`` gives.
    """
    shape = probabilities_BE.shape
    shares = torch.tensor(COUNT_SHARES).expand(shape[0], -1)
    counts_B = (
        torch.multinomial(shares, 1, generator=generator)[:, 0] if shape[0] else torch.zeros(0, dtype=torch.int64)
    )
    places_BE = torch.rand(shape, generator=generator)
    is_accepted_BE = torch.rand(shape, generator=generator) < probabilities_BE
    return walk(places_BE, is_accepted_BE, counts_B)


def _apply_policies(
    images_BCHW: Tensor,
    policies: Sequence[Policy],
    weights: Sequence[int],
    fill: tuple[int, ...],
    generator: torch.Generator,
) -> Tensor:
    """Let each image draw one of some policies by weight, and then its entries."""
    # Entries that are never applied need no draws; the walk passes over them anyway.
    live = [[entry for entry in policy if entry.probability] for policy in policies]
    longest = max(map(len, live))
    probabilities_KE = torch.zeros(len(live), longest)
    for policy, entries in enumerate(live):
        probabilities_KE[policy, : len(entries)] = (
            torch.tensor([float(entry.probability) for entry in entries]) / MAX_PROBABILITY
        )
    policy_B = _draw_policies(weights, len(images_BCHW), generator)
    cards_BS = draw_entries(probabilities_KE[policy_B], generator)
    starts_K = torch.tensor([0, *map(len, live[:-1])]).cumsum(0)
    cards_BS = torch.where(cards_BS == NO_CARD, NO_CARD, cards_BS + starts_K[policy_B][:, None])
    deck = [_card(entry) for entries in live for entry in entries]
    fill_C = send(torch.tensor(fill, dtype=torch.uint8), images_BCHW.device)
    return apply_cards(images_BCHW, deck, cards_BS, OpContext(fill_C=fill_C, generator=generator))


def _draw_policies(weights: Sequence[int], images: int, generator: torch.Generator) -> Tensor:
    if len(weights) == 1 or not images:
        return torch.zeros(images, dtype=torch.int64)
    return torch.multinomial(torch.tensor(weights, dtype=torch.float32), images, replacement=True, generator=generator)


def _card(entry: PolicyEntry) -> Card:
    op = get_op(entry.op)
    value = op.value_at(entry.magnitude)
    values = (value, -value) if op.has_sign and value else (value,)
    return Card(name=op.name, kernel=op.kernel, values=values, identity=op.identity)


def _check_ops(schedule: PolicySchedule) -> None:
    for name in dict.fromkeys(entry.op for segment in schedule.segments for entry in segment.policy):
        get_op(name)

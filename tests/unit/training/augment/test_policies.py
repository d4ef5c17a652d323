"""Policies: the walk by hand, the shares of counts and entries, schedules over epochs and flattened ones."""
# Shapes: B images, E entries, S slots.

import pytest
import torch
from augmented_images import random_images, seeded
from scipy.stats import chisquare
from torch import Tensor

from training.augment.augmentation import Moment
from training.augment.deck import NO_CARD
from training.augment.ops import initial_policy
from training.augment.policies import COUNT_SHARES, FlattenedPolicies, ScheduledPolicies, draw_entries, flatten, walk
from training.augment.policy import Policy, PolicyEntry, PolicySchedule, Segment
from training.errors import AugmentError


def _schedule(*segments: tuple[int, Policy]) -> PolicySchedule:
    return PolicySchedule(segments=tuple(Segment(epochs=epochs, policy=policy) for epochs, policy in segments))


def _entry(op: str, probability: int = 10, magnitude: int = 0) -> PolicyEntry:
    return PolicyEntry(op=op, probability=probability, magnitude=magnitude)


def _levels(images: int) -> Tensor:
    """Give images whose values tell which ops changed them."""
    return torch.full((images, 1, 8, 8), 200, dtype=torch.uint8)


def _run(augmentation: ScheduledPolicies | FlattenedPolicies, images: int, epoch: int = 0, epochs: int = 1) -> Tensor:
    moment = Moment(epoch=epoch, epochs=epochs)
    return augmentation(_levels(images), torch.arange(images), moment, seeded())[:, 0, 0, 0]


def test_a_walk_takes_the_first_accepted_entries_up_to_its_count() -> None:
    # Each line is an image; the order of its walk is that of the places.
    places_BE = torch.tensor([
        [0.1, 0.2, 0.3, 0.4],  # order 0 1 2 3
        [0.4, 0.3, 0.2, 0.1],  # order 3 2 1 0
        [0.3, 0.1, 0.4, 0.2],  # order 1 3 0 2
        [0.3, 0.1, 0.4, 0.2],
        [0.3, 0.1, 0.4, 0.2],
    ])  # fmt: skip
    is_accepted_BE = torch.tensor([
        [False, True, True, True],  # 1, then 2; 3 is not reached
        [True, True, False, True],  # 3, then 1, as 2 fails
        [False, False, True, False],  # 2 alone, at the end of the walk
        [True, True, True, True],  # one only: 1
        [True, True, True, True],  # none
    ])  # fmt: skip
    counts_B = torch.tensor([2, 2, 2, 1, 0])
    taken_BS = walk(places_BE, is_accepted_BE, counts_B)
    assert taken_BS.tolist() == [[1, 2], [3, 1], [2, NO_CARD], [1, NO_CARD], [NO_CARD, NO_CARD]]


def test_a_walk_agrees_with_the_papers_loop() -> None:
    generator = seeded(5)
    places_BE = torch.rand(500, 30, generator=generator)
    is_accepted_BE = torch.rand(500, 30, generator=generator) < 0.05
    counts_B = torch.randint(3, (500,), generator=generator)
    taken_BS = walk(places_BE, is_accepted_BE, counts_B)
    for places, is_accepted, count, taken in zip(places_BE, is_accepted_BE, counts_B.tolist(), taken_BS, strict=True):
        left, expected = count, []
        for entry in places.argsort().tolist():
            if left == 0:
                break
            if is_accepted[entry]:
                expected.append(entry)
                left -= 1
        assert [entry for entry in taken.tolist() if entry != NO_CARD] == expected


def test_counts_come_in_the_papers_shares_where_every_entry_is_sure() -> None:
    images = 20_000
    taken_BS = draw_entries(torch.ones(images, 30), seeded())
    counts = torch.bincount((taken_BS != NO_CARD).sum(1), minlength=3)
    assert chisquare(counts.tolist(), [share * images for share in COUNT_SHARES]).pvalue > 0.001
    # Each entry is as likely as the others, and none comes twice to an image.
    entries = torch.bincount(taken_BS[taken_BS != NO_CARD], minlength=30)
    assert chisquare(entries.tolist()).pvalue > 0.001
    both_BS = taken_BS[(taken_BS != NO_CARD).all(1)]
    assert bool((both_BS[:, 0] != both_BS[:, 1]).all())


def test_an_entry_is_taken_with_its_probability() -> None:
    images = 40_000
    taken_BS = draw_entries(torch.tensor([[0.3]]).expand(images, 1), seeded())
    # One entry at 0.3, and a count of at least 1 in 8 of 10 images.
    taken = int((taken_BS != NO_CARD).sum())
    assert chisquare([taken, images - taken], [0.24 * images, 0.76 * images]).pvalue > 0.001


def test_the_second_entry_of_two_is_taken_when_its_walk_gets_there() -> None:
    images = 40_000
    taken_BS = draw_entries(torch.tensor([[1.0, 0.5]]).expand(images, 2), seeded())
    outcomes = [(NO_CARD, NO_CARD), (0, NO_CARD), (1, NO_CARD), (0, 1), (1, 0)]
    counts = [int((taken_BS == torch.tensor(outcome)).all(1).sum()) for outcome in outcomes]
    # Count 1 (0.3): 0 comes first, or 1 does and fails: 3/4; else 1. Count 2 (0.5): 0 always, 1 with 1/2.
    shares = [0.2, 0.3 * 0.75 + 0.5 * 0.5, 0.3 * 0.25, 0.5 * 0.25, 0.5 * 0.25]
    assert sum(counts) == images
    assert chisquare(counts, [share * images for share in shares]).pvalue > 0.001


def test_the_zero_policy_and_the_empty_one_change_nothing() -> None:
    images_BCHW = random_images(20)
    for policy in (initial_policy(), ()):
        augmentation = ScheduledPolicies(schedule=_schedule((1, policy)), fill=(0, 0, 0))
        changed_BCHW = augmentation(images_BCHW, torch.arange(20), Moment(epoch=0, epochs=1), seeded())
        assert torch.equal(changed_BCHW, images_BCHW)


def test_an_epoch_has_the_schedules_policy_stretched_to_the_run() -> None:
    # 200 → 55 by inversion, → 192 by keeping 4 bits.
    schedule = _schedule((1, (_entry("Invert"),)), (2, (_entry("Posterize"),)))
    augmentation = ScheduledPolicies(schedule=schedule, fill=(0,))
    seen = [set(_run(augmentation, 100, epoch, 6).tolist()) for epoch in range(6)]
    assert seen == [{200, 55}] * 2 + [{200, 192}] * 4


def test_flattened_each_image_takes_a_policy_by_its_share_of_the_epochs() -> None:
    # The first policy has more entries than the second, which is in force three times as long.
    first = (_entry("Invert"), _entry("Color"), _entry("Invert"))
    schedule = _schedule((1, first), (3, (_entry("Posterize"),)))
    assert flatten(schedule) == ((first, (_entry("Posterize"),)), (1, 3))
    images = 20_000
    values_B = _run(FlattenedPolicies(schedule=schedule, fill=(0,)), images, epoch=3, epochs=4)
    posterized = int((values_B == 192).sum())
    # A single sure entry meets a count of at least 1 in 8 of 10 images.
    assert chisquare([posterized, images - posterized], [0.6 * images, 0.4 * images]).pvalue > 0.001
    assert set(values_B.tolist()) == {200, 192, 55}


def test_flattened_an_image_never_mixes_policies() -> None:
    schedule = _schedule((1, (_entry("Invert"), _entry("Invert"))), (1, (_entry("Posterize"), _entry("Posterize"))))
    values = set(_run(FlattenedPolicies(schedule=schedule, fill=(0,)), 5000).tolist())
    # Two inversions give 200 again; inverted and posterized it would be 48 or 63.
    assert values == {200, 55, 192}


def test_signs_are_drawn_image_by_image_and_uncovered_pixels_take_the_fill() -> None:
    schedule = _schedule((1, (_entry("TranslateX", magnitude=8),)))
    images_BCHW = torch.full((2000, 3, 32, 32), 200, dtype=torch.uint8)
    changed_BCHW = ScheduledPolicies(schedule=schedule, fill=(1, 2, 3))(
        images_BCHW, torch.arange(2000), Moment(epoch=0, epochs=1), seeded()
    )
    right_B, left_B = ((changed_BCHW[:, 0, 0, column] == 1) for column in (0, -1))
    assert abs(int(right_B.sum()) - 800) < 100
    assert abs(int(left_B.sum()) - 800) < 100
    assert not bool((right_B & left_B).any())
    moved = changed_BCHW[right_B][0]
    assert moved[:, 5, 7].tolist() == [1, 2, 3]
    assert moved[:, 5, 8].tolist() == [200, 200, 200]


def test_the_generator_alone_decides() -> None:
    policy = tuple(_entry(entry.op, 5, 5) for entry in initial_policy())
    augmentation = ScheduledPolicies(schedule=_schedule((1, policy)), fill=(0, 0, 0))
    images_BCHW, moment = random_images(64), Moment(epoch=0, epochs=1)
    state = torch.get_rng_state()
    first, again, other = (augmentation(images_BCHW, torch.arange(64), moment, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("kind", [ScheduledPolicies, FlattenedPolicies])
def test_an_op_that_is_not_registered_is_refused_at_once(kind: type[ScheduledPolicies]) -> None:
    with pytest.raises(AugmentError, match="op: got 'Swirl'; must be registered"):
        kind(schedule=_schedule((1, (_entry("Swirl"),))), fill=(0,))

"""Explore: how a policy changes when a trial takes it over from a better one."""
# Shapes: E entries of a policy, 2 numbers of each (probability, magnitude).

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cascade_serve.core.arrays import BoolArray, IntArray
from training.augment.policy import MAX_MAGNITUDE, MAX_PROBABILITY, Policy, PolicyEntry

RESAMPLE_PROBABILITY = 0.2
MAX_STEP = 3
_LARGEST_2 = np.array([MAX_PROBABILITY, MAX_MAGNITUDE])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ExploreDraws:
    """What chance says about each number of a policy.

    Attributes:
        resampled_E2: True takes the fresh value, False moves the old one.
        fresh_E2: int64, a uniform draw over all values, 0..10 and 0..9.
        moves_E2: int64, a step of 0, 1, 2 or 3, with its sign.
    """

    resampled_E2: BoolArray
    fresh_E2: IntArray
    moves_E2: IntArray


def explore(
    policy: Policy, generator: np.random.Generator, resample_probability: float = RESAMPLE_PROBABILITY
) -> Policy:
    """Change a policy at random (Ho et al., ICML 2019, algorithm 2).

    Each of its numbers, with probability ``resample_probability``, is drawn anew, uniformly; else a step of 0, 1, 2 or
    3, all equally likely, is added or taken off, as likely the one as the other, and the sum is clipped to the range.

    Args:
        policy: any number of entries.
        generator: of the draws; advanced.
        resample_probability: 0 to 1.

    Returns:
        the same ops in the same order with other numbers.
    """
    return apply_draws(policy, draw(len(policy), generator, resample_probability))


def draw(num_entries: int, generator: np.random.Generator, resample_probability: float) -> ExploreDraws:
    """Draw all that exploring a policy of so many entries needs; always as many draws, so that seeds compare."""
    shape = (num_entries, 2)
    steps_E2 = generator.integers(0, MAX_STEP, shape, endpoint=True)
    signs_E2 = generator.choice(np.array([-1, 1]), shape)
    return ExploreDraws(
        resampled_E2=generator.random(shape) < resample_probability,
        fresh_E2=generator.integers(0, _LARGEST_2, shape, endpoint=True),
        moves_E2=steps_E2 * signs_E2,
    )


def apply_draws(policy: Policy, draws: ExploreDraws) -> Policy:
    """Give the policy that the draws make of another."""
    values_E2 = np.array([(entry.probability, entry.magnitude) for entry in policy]).reshape(-1, 2)
    moved_E2 = np.clip(values_E2 + draws.moves_E2, 0, _LARGEST_2)
    return _with_values([entry.op for entry in policy], np.where(draws.resampled_E2, draws.fresh_E2, moved_E2))


def random_policy(ops: Sequence[str], generator: np.random.Generator) -> Policy:
    """Draw every number of a policy uniformly: what random search starts from.

    Args:
        ops: one name an entry, so each twice.
        generator: advanced.
    """
    return _with_values(ops, generator.integers(0, _LARGEST_2, (len(ops), 2), endpoint=True))


def _with_values(ops: Sequence[str], values_E2: IntArray) -> Policy:
    return tuple(
        PolicyEntry(op=op, probability=int(probability), magnitude=int(magnitude))
        for op, (probability, magnitude) in zip(ops, values_E2, strict=True)
    )

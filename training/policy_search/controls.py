"""Random search at equal compute: policies that don't depend on how well any trial does."""

import numpy as np

from training.augment.policy import Policy
from training.policy_search.config import PolicySearchConfig, Strategy
from training.policy_search.exploit import quantile_size
from training.policy_search.explore import explore, random_policy


def plan_policies(config: PolicySearchConfig, initial: Policy) -> tuple[tuple[Policy, ...], ...] | None:
    """Draw a control's policies for the whole search.

    Args:
        config: of the search.
        initial: gives the ops; PBA and the random schedule start from its numbers.

    Returns:
        for each trial the policy of each interval; None for PBA, whose policies come out of the search itself.
    """
    generator = np.random.default_rng([config.seed, 1])
    match config.strategy:
        case Strategy.PBA:
            return None
        case Strategy.RANDOM_CONSTANT:
            ops = [entry.op for entry in initial]
            return tuple((random_policy(ops, generator),) * config.num_intervals for _ in range(config.population))
        case Strategy.RANDOM_SCHEDULE:
            return _random_schedules(config, initial, generator)


def _random_schedules(
    config: PolicySearchConfig, initial: Policy, generator: np.random.Generator
) -> tuple[tuple[Policy, ...], ...]:
    generations = [[initial] * config.population]
    for _ in range(1, config.num_intervals):
        policies = list(generations[-1])
        for trial in generator.permutation(config.population)[: quantile_size(config.population, config.quantile)]:
            policies[trial] = explore(policies[trial], generator, config.resample_probability)
        generations.append(policies)
    return tuple(zip(*generations, strict=True))

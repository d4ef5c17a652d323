"""The in-process population: trials in turn on one device, without ray."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.augment.policy import Policy
from training.checkpoint import UNREADABLE
from training.errors import PolicySearchError
from training.policy_search.config import PolicySearchConfig
from training.policy_search.controls import plan_policies
from training.policy_search.exploit import choose_parents
from training.policy_search.explore import explore
from training.policy_search.history import (
    IntervalRecord,
    policy_from_json,
    policy_to_json,
    record_from_json,
    record_to_json,
)
from training.policy_search.trial import Contestant, MakeTrial, Progress

STATE_FILE = "population.pt"
PARTIAL_FILE = "population.partial"
"""The state while it is being written."""


def run_local(
    config: PolicySearchConfig,
    make_trial: MakeTrial,
    initial: Policy,
    *,
    folder: Path,
    fingerprint: str,
    progress: Progress | None = None,
) -> tuple[IntervalRecord, ...]:
    """Run a search in this process.

    States stay where the trials keep them: a clone is a copy in memory. They are written to ``folder`` every
    ``checkpoint_interval_s`` at most, and a search that finds them there goes on from them; what chance decides hangs
    on the seed and the interval alone, so that the result is the same.

    Args:
        config: of the search.
        make_trial: makes the trials.
        initial: policy that PBA starts from.
        folder: exists; holds the state while the search runs.
        fingerprint: of all that decides the result; a state with another one is refused.
        progress: called after each interval of each trial, those of an earlier process left out.

    Returns:
        one record an interval and trial: intervals in order, trials in order within each.

    Raises:
        PolicySearchError: the state found is of another search, or can't be read or written.
    """
    population = _Population(config, make_trial, initial)
    path = folder / STATE_FILE
    if path.exists():
        population.load(path, fingerprint)
    written_s = time.monotonic()
    while len(population.generations) < config.num_intervals:
        population.run_interval(progress)
        if time.monotonic() - written_s >= config.checkpoint_interval_s:
            population.save(path, fingerprint)
            written_s = time.monotonic()
    return tuple(record for generation in population.generations for record in generation)


class _Population:
    """All trials, and what they have done: one tuple of records an interval."""

    def __init__(self, config: PolicySearchConfig, make_trial: MakeTrial, initial: Policy) -> None:
        self._config = config
        self._plan = plan_policies(config, initial)
        first = [initial] * config.population if self._plan is None else [plan[0] for plan in self._plan]
        self._contestants = [Contestant(trial, make_trial, config, policy) for trial, policy in enumerate(first)]
        self.generations: list[tuple[IntervalRecord, ...]] = []

    def run_interval(self, progress: Progress | None) -> None:
        """Let each trial train and be judged, then perturb the population unless it is at its end."""
        records: list[IntervalRecord] = []
        for contestant in self._contestants:
            records.append(contestant.advance())
            if progress is not None:
                progress(records[-1])
        self.generations.append(tuple(records))
        if len(self.generations) < self._config.num_intervals:
            self._perturb([record.accuracy for record in records])

    def _perturb(self, accuracies: Sequence[float]) -> None:
        interval = len(self.generations)
        if self._plan is not None:
            for contestant, plan in zip(self._contestants, self._plan, strict=True):
                contestant.policy = plan[interval]
            return
        # The 0 keeps these numbers apart from the seed's other uses.
        generator = np.random.default_rng([self._config.seed, 0, interval])
        for child, parent in choose_parents(accuracies, generator, self._config.quantile).items():
            better = self._contestants[parent]
            self._contestants[child].load_state_dict(better.state_dict())
            self._contestants[child].policy = explore(better.policy, generator, self._config.resample_probability)

    def save(self, path: Path, fingerprint: str) -> None:
        """Write everything down, whole or not at all."""
        state: dict[str, Any] = {
            "fingerprint": fingerprint,
            "generations": [[record_to_json(record) for record in generation] for generation in self.generations],
            "policies": [policy_to_json(contestant.policy) for contestant in self._contestants],
            "contestants": [contestant.state_dict() for contestant in self._contestants],
        }
        partial = path.with_name(PARTIAL_FILE)
        try:
            torch.save(state, partial)
            partial.replace(path)
        except (OSError, RuntimeError) as error:
            raise PolicySearchError(f"{path}: state of the search can't be written: {error}") from error

    def load(self, path: Path, fingerprint: str) -> None:
        """Take up what an earlier process wrote down."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if state["fingerprint"] != fingerprint:
                raise PolicySearchError(
                    f"{path}: is the state of a search of other data or settings; remove it or go on elsewhere"
                )
            self._take_up(state)
        except (OSError, *UNREADABLE) as error:
            raise PolicySearchError(f"{path}: state of the search can't be read: {error!r}") from error

    def _take_up(self, state: Mapping[str, Any]) -> None:
        self.generations = [tuple(map(record_from_json, generation)) for generation in state["generations"]]
        for contestant, own, policy in zip(self._contestants, state["contestants"], state["policies"], strict=True):
            contestant.load_state_dict(own)
            contestant.policy = policy_from_json(policy)

"""A trial of a population, and what both backends do with it between two perturbations."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from training.augment.policy import Policy
from training.errors import DivergedError
from training.policy_search.config import PolicySearchConfig
from training.policy_search.history import IntervalRecord, record_key


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialReport:
    """What some epochs under one policy came to.

    Attributes:
        accuracy: share of the validation images that were right, 0..1.
        evaluations: images trained on.
    """

    accuracy: float
    evaluations: int


class Trial(Protocol):
    """Something that learns under a policy, such as a network: the seam between a search and what it trains."""

    def advance(self, epochs: int, policy: Policy) -> TrialReport:
        """Train for some epochs under a policy and judge on the validation images.

        Raises:
            DivergedError: a loss was not finite; the search counts the trial as the worst until it is replaced.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Give a snapshot of all that going on from here needs: tensors and plain values only."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a snapshot, of this trial or of another of the population; the snapshot stays as it is."""
        ...


MakeTrial = Callable[[int], Trial]
"""Makes the trial of a number, untrained. The ray backend pickles it."""

Progress = Callable[[IntervalRecord], None]
"""Called after each interval of each trial."""


class Contestant:
    """A trial with its number, its policy and its line of descent; the same for every backend.

    Attributes:
        epoch: epochs that its weights have behind them.
        policy: in force from now on.

    Args:
        trial: its number, from 0.
        make_trial: makes it.
        config: of the search.
        policy: the first one.
    """

    def __init__(self, trial: int, make_trial: MakeTrial, config: PolicySearchConfig, policy: Policy) -> None:
        self._trial = trial
        self._config = config
        self._trained = make_trial(trial)
        self.epoch = 0
        self._key: str | None = None
        self._diverged = False
        self.policy = policy

    @property
    def is_finished(self) -> bool:
        """Tell whether all epochs are done."""
        return self.epoch >= self._config.epochs

    def advance(self, suffix: str = "") -> IntervalRecord:
        """Train and judge for one interval under the policy; see :func:`record_key` for the suffix."""
        began_s = time.perf_counter()
        epochs = self._config.interval_epochs(self.epoch)
        report = self._report(epochs)
        record = IntervalRecord(
            key=record_key(self._trial, self.epoch + epochs, suffix),
            parent=self._key,
            trial=self._trial,
            start_epoch=self.epoch,
            epochs=epochs,
            policy=self.policy,
            accuracy=report.accuracy,
            evaluations=report.evaluations,
            seconds=time.perf_counter() - began_s,
            diverged=self._diverged,
        )
        self.epoch, self._key = record.end_epoch, record.key
        return record

    def _report(self, epochs: int) -> TrialReport:
        if not self._diverged:
            try:
                return self._trained.advance(epochs, self.policy)
            except DivergedError:
                self._diverged = True
        return TrialReport(accuracy=0.0, evaluations=0)

    def state_dict(self) -> dict[str, Any]:
        """Give a snapshot of weights and descent, without the policy."""
        return {
            "epoch": self.epoch,
            "key": self._key,
            "diverged": self._diverged,
            "trained": self._trained.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up one's own state, or that of a better one: the next record's parent is then the other's last."""
        self._trained.load_state_dict(state["trained"])
        self.epoch, self._key, self._diverged = state["epoch"], state["key"], state["diverged"]

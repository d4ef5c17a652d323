"""Trials that learn by formula: how well one does hangs on its policies alone."""

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.augment.policy import Policy, PolicyEntry
from training.errors import DivergedError
from training.policy_search.trial import TrialReport

IMAGES = 10


def zero_policy(num_entries: int = 6) -> Policy:
    return tuple(PolicyEntry(op=f"op{entry // 2}") for entry in range(num_entries))


def merit(policy: Policy, place: float) -> float:
    """Tell how good a policy is at a place 0..1 of the run, 0..1: the best strength grows from 2 to 8."""
    strengths = np.array([(entry.probability, entry.magnitude) for entry in policy])
    return float(1 - np.abs(strengths - (2 + 6 * place)).mean() / 10)


class AnalyticTrial:
    """Gains each epoch what the policy then is worth; a little of it is luck, which a clone takes over as well."""

    def __init__(self, seed: int, epochs: int, diverges_at: int | None = None) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._epochs = epochs
        self._diverges_at = diverges_at
        self.epoch = 0
        self.score = torch.zeros(1, dtype=torch.float64)

    def advance(self, epochs: int, policy: Policy) -> TrialReport:
        for _ in range(epochs):
            if self.epoch == self._diverges_at:
                raise DivergedError(step=1, epoch=self.epoch + 1, loss=float("nan"), peak_lr=0.1)
            luck = 0.02 * torch.randn(1, generator=self._generator, dtype=torch.float64)
            # In place, as networks do it: a clone that shared it would be found out.
            self.score += (merit(policy, self.epoch / self._epochs) + luck) / self._epochs
            self.epoch += 1
        return TrialReport(accuracy=float(self.score[0]), evaluations=IMAGES * epochs)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "score": self.score.clone(), "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.score = state["epoch"], state["score"].clone()
        self._generator.set_state(state["generator"])


@dataclass(frozen=True)
class AnalyticTrials:
    epochs: int
    seed: int = 0
    diverging: Mapping[int, int] | None = None

    def __call__(self, trial: int) -> AnalyticTrial:
        return AnalyticTrial(100 * self.seed + trial, self.epochs, (self.diverging or {}).get(trial))


class MortalTrial(AnalyticTrial):
    """Ends its own process, once, when it comes to an epoch."""

    def __init__(self, seed: int, epochs: int, *, dies_at: int, grave: Path) -> None:
        super().__init__(seed, epochs)
        self._dies_at = dies_at
        self._grave = grave

    def advance(self, epochs: int, policy: Policy) -> TrialReport:
        if self.epoch >= self._dies_at and not self._grave.exists():
            self._grave.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().advance(epochs, policy)


@dataclass(frozen=True)
class MortalTrials:
    """Trial 1 dies on the way."""

    epochs: int
    dies_at: int
    grave: Path

    def __call__(self, trial: int) -> AnalyticTrial:
        if trial == 1:
            return MortalTrial(trial, self.epochs, dies_at=self.dies_at, grave=self.grave)
        return AnalyticTrial(trial, self.epochs)


class FailingTrial(AnalyticTrial):
    """Fails at an epoch."""

    def __init__(self, seed: int, epochs: int, *, fails_at: int) -> None:
        super().__init__(seed, epochs)
        self._fails_at = fails_at

    def advance(self, epochs: int, policy: Policy) -> TrialReport:
        if self.epoch >= self._fails_at:
            raise RuntimeError("no room")
        return super().advance(epochs, policy)


@dataclass(frozen=True)
class FailingTrials:
    """Trial 1 fails for as long as a file is not there."""

    epochs: int
    fails_at: int
    mended: Path

    def __call__(self, trial: int) -> AnalyticTrial:
        if trial == 1 and not self.mended.exists():
            return FailingTrial(trial, self.epochs, fails_at=self.fails_at)
        return AnalyticTrial(trial, self.epochs)

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


class TroubledTrial(AnalyticTrial):
    """Ends its own process, once, when it comes to an epoch, and fails at a later one until it is mended."""

    def __init__(self, seed: int, trouble: "TroubledTrials") -> None:
        super().__init__(seed, trouble.epochs)
        self._trouble = trouble

    def advance(self, epochs: int, policy: Policy) -> TrialReport:
        trouble = self._trouble
        if self.epoch >= trouble.dies_at and not trouble.grave.exists():
            trouble.grave.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        if self.epoch >= trouble.fails_at and not trouble.mended.exists():
            raise RuntimeError("no room")
        return super().advance(epochs, policy)


@dataclass(frozen=True)
class TroubledTrials:
    """Trial 1 dies and fails on the way.

    Attributes:
        epochs: of each.
        dies_at, fails_at: epochs done.
        grave: file with the number of the process that died.
        mended: file that ends the failures.
    """

    epochs: int
    dies_at: int
    fails_at: int
    grave: Path
    mended: Path

    def __call__(self, trial: int) -> AnalyticTrial:
        return TroubledTrial(trial, self) if trial == 1 else AnalyticTrial(trial, self.epochs)

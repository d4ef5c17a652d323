"""A trial as a Ray actor: one step is one interval, and a checkpoint holds weights and descent."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.augment.policy import Policy
from training.policy_search.config import PolicySearchConfig
from training.policy_search.history import policy_from_json, record_to_json
from training.policy_search.trial import Contestant, MakeTrial

STATE_FILE = "contestant.pt"
RECORD_FILE = "record.json"
RECORD = "record"
ACCURACY = "accuracy"
INTERVAL = "interval"
START = "start"
TRIAL = "trial"
POLICY = "policy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What a trial begins a session with.

    Attributes:
        policy: the first one.
        checkpoint: folder of an earlier session's, that it goes on from; None for fresh weights.
        end_epoch: epochs behind that checkpoint.
    """

    policy: Policy
    checkpoint: str | None = None
    end_epoch: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOrder:
    """What every actor of a search is given once, through the object store.

    Attributes:
        config: of the search.
        make_trial: makes the trials.
        plan: policies of a control, for each trial and interval; None where they come with the trial's configuration.
        starts: what each trial begins with, by trial.
    """

    config: PolicySearchConfig
    make_trial: MakeTrial
    plan: tuple[tuple[Policy, ...], ...] | None
    starts: Mapping[int, Start]


def trial_name(trial: int) -> str:
    """Name a trial of Ray's by its number."""
    return f"trial_{trial:04d}"


def trial_number(name: str) -> int:
    """Read what :func:`trial_name` gave."""
    return int(name.rpartition("_")[2])


def interval_number(end_epoch: int, config: PolicySearchConfig) -> int:
    """Count the intervals that end with an epoch."""
    return -(-end_epoch // config.perturbation_interval)


class Actor:
    """The work of a trainable, apart from Ray's base class.

    Args:
        trial: its number.
        order: of the search.
        policy: as JSON, in force from now on; of no account under a plan.
    """

    def __init__(self, trial: int, order: SearchOrder, policy: list[list[Any]]) -> None:
        self._trial = trial
        self._order = order
        first = policy_from_json(policy)
        self._contestant = Contestant(trial, order.make_trial, order.config, first)
        self._record: dict[str, Any] | None = None
        checkpoint = order.starts[trial].checkpoint
        if checkpoint is not None:
            self.load(Path(checkpoint))

    def step(self) -> dict[str, Any]:
        """Train and judge for an interval; gives what Ray Tune is told."""
        config = self._order.config
        if self._order.plan is not None:
            done = interval_number(self._contestant.epoch, config)
            self._contestant.policy = self._order.plan[self._trial][done]
        # An asynchronous search, or a retried one, may come to the same epoch twice: the token tells them apart.
        record = self._contestant.advance(f"/{secrets.token_hex(4)}")
        self._record = record_to_json(record)
        return {
            ACCURACY: record.accuracy,
            INTERVAL: interval_number(record.end_epoch, config),
            # As text: Tune flattens what is nested.
            RECORD: json.dumps(self._record),
            "done": self._contestant.is_finished,
        }

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        torch.save(self._contestant.state_dict(), folder / STATE_FILE)
        (folder / RECORD_FILE).write_text(json.dumps(self._record), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take up a checkpoint, of this trial or of another."""
        state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
        self._contestant.load_state_dict(state)
        self._record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))


def trainable_class() -> type[Any]:
    """Give the class that Ray Tune runs; made here, because it inherits from ray's."""
    from ray import tune

    class PolicyTrainable(tune.Trainable):
        """Hands Ray's calls on to an :class:`Actor`."""

        def setup(self, config: dict[str, Any], order: SearchOrder | None = None) -> None:
            assert order is not None
            self._order = order
            self._begin(config)

        def _begin(self, config: dict[str, Any]) -> None:
            # By name: an exploited trial's configuration is a copy of its parent's.
            self._actor = Actor(trial_number(self.trial_name), self._order, config[START][POLICY])

        def step(self) -> dict[str, Any]:
            return self._actor.step()

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            self._actor.save(Path(checkpoint_dir))

        def load_checkpoint(self, checkpoint: Any) -> None:
            self._actor.load(Path(checkpoint))

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._begin(new_config)
            return True

    return PolicyTrainable

"""What a search did: one record for each interval of each trial, and its JSON."""

from dataclasses import dataclass
from typing import Any

from training.augment.policy import Policy, PolicyEntry


@dataclass(frozen=True, kw_only=True, slots=True)
class IntervalRecord:
    """One trial between two perturbations: some epochs under one policy.

    Attributes:
        key: names this record among all of its search; begins with the trial's number and a slash.
        parent: key of the record whose weights it started from; None for weights fresh from their seed.
        trial: its number, from 0.
        start_epoch: epochs that its weights had behind them.
        epochs: that it added, at least 1.
        policy: in force meanwhile.
        accuracy: share of the validation images that were right at the end, 0..1; 0 where training diverged.
        evaluations: images trained on.
        seconds: training and judging took.
        diverged: the loss was not finite, now or earlier in the line of its weights.
    """

    key: str
    parent: str | None
    trial: int
    start_epoch: int
    epochs: int
    policy: Policy
    accuracy: float
    evaluations: int
    seconds: float
    diverged: bool = False

    @property
    def end_epoch(self) -> int:
        """Epochs that its weights have behind them at its end."""
        return self.start_epoch + self.epochs

    @property
    def cloned_from(self) -> int | None:
        """The other trial whose weights it started from; None where it went on with its own."""
        if self.parent is None:
            return None
        trial = int(self.parent.partition("/")[0])
        return None if trial == self.trial else trial


def record_key(trial: int, end_epoch: int, suffix: str = "") -> str:
    """Name a record by its trial and the epochs behind it; a suffix tells repeated ones apart."""
    return f"{trial}/{end_epoch}{suffix}"


def record_to_json(record: IntervalRecord) -> dict[str, Any]:
    """Give a record as JSON values; the policy by op name, and ``cloned_from`` for the reader."""
    return {
        "key": record.key,
        "parent": record.parent,
        "cloned_from": record.cloned_from,
        "trial": record.trial,
        "start_epoch": record.start_epoch,
        "epochs": record.epochs,
        "accuracy": record.accuracy,
        "evaluations": record.evaluations,
        "seconds": record.seconds,
        "diverged": record.diverged,
        "policy": policy_to_json(record.policy),
    }


def record_from_json(value: dict[str, Any]) -> IntervalRecord:
    """Read what :func:`record_to_json` gave."""
    fields = {name: value[name] for name in IntervalRecord.__slots__ if name != "policy"}
    return IntervalRecord(policy=policy_from_json(value["policy"]), **fields)


def policy_to_json(policy: Policy) -> list[list[Any]]:
    """Give a policy as [op, probability, magnitude] triples."""
    return [[entry.op, entry.probability, entry.magnitude] for entry in policy]


def policy_from_json(value: list[list[Any]]) -> Policy:
    """Read what :func:`policy_to_json` gave."""
    return tuple(
        PolicyEntry(op=op, probability=probability, magnitude=magnitude) for op, probability, magnitude in value
    )

"""Augmentation policies and their schedules: pure nouns, shared by search and training.

Source: Ho et al., "Population Based Augmentation" (ICML 2019, arXiv 1905.05393), section 3.
"""

from dataclasses import dataclass

MAX_PROBABILITY = 10
MAX_MAGNITUDE = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyEntry:
    """One op of a policy.

    Attributes:
        op: its name in the registry (``training.augment.ops``).
        probability: tenths, 0..10.
        magnitude: 0..9; what it means is the op's affair.
    """

    op: str
    probability: int = 0
    magnitude: int = 0

    def __post_init__(self) -> None:
        for name, largest in (("probability", MAX_PROBABILITY), ("magnitude", MAX_MAGNITUDE)):
            value = getattr(self, name)
            # Tenths: a share, such as 0.5, is a mistake.
            if not isinstance(value, int) or not 0 <= value <= largest:
                raise ValueError(f"{name} of {self.op!r}: got {value}; must lie in 0..{largest} and be whole")


Policy = tuple[PolicyEntry, ...]
"""A policy: each op comes in twice, each time with a probability and a magnitude of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A policy and how long it holds.

    Attributes:
        epochs: at least 1.
        policy: in force meanwhile.
    """

    epochs: int
    policy: Policy

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs: got {self.epochs}; must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicySchedule:
    """Policies over the epochs of a run.

    Attributes:
        segments: in order, at least one.
    """

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        if not self.segments:
            raise ValueError("segments: got none; must be at least one")

    @property
    def epochs(self) -> int:
        """Epochs that the schedule was found over."""
        return sum(segment.epochs for segment in self.segments)

    def policy_at(self, epoch: int, epochs: int) -> Policy:
        """Give the policy of an epoch of a run of any length; the schedule is stretched to it.

        Args:
            epoch: from 0.
            epochs: of the run, above ``epoch``.
        """
        if not 0 <= epoch < epochs:
            raise ValueError(f"epoch: got {epoch}; must lie in 0..{epochs - 1}")
        # Integer arithmetic: epoch e of E covers the schedule's epoch floor(e * own / E).
        place = epoch * self.epochs // epochs
        for segment in self.segments:
            if place < segment.epochs:
                return segment.policy
            place -= segment.epochs
        raise AssertionError("place lies within the segments")

"""What a plan is asked to keep: limits, promise, level."""

from dataclasses import dataclass, field

from cascade_serve.core.combine import Combine
from cascade_serve.core.confidence import Confidence
from cascade_serve.core.cost import Cost
from cascade_serve.core.plan import Promise
from cascade_serve.errors import ConfigError
from cascade_serve.planner.committee import ALL_RULES, Rules
from cascade_serve.planner.search import Limits

FAST_EXTRA = 0.01
"""What the policy ``fast`` may lose beyond the promise of ``default``, as a share of rows."""
DEFAULT_MAX_REGRET = 0.005


@dataclass(frozen=True, kw_only=True, slots=True)
class Demands:
    """What the user asks of the planner.

    Attributes:
        limits: on every policy.
        cost: what is kept small.
        cost_batch_size: the batch size of the members' profiles at which seconds are taken; None is each member's best.
        combine: how members speak together; None leaves the choice to the planner.
        confidence: how sure a prediction is; None leaves the choice to the planner.
        max_regret: how much less accurate than the reference ``default`` may be, as a share of rows; not asked where
            ``min_accuracy`` is.
        min_accuracy: how accurate ``default`` must be, as a share of rows; None asks for the regret instead.
        level: how sure the promise must be, in (0, 1).
        seed: of the split into halves.

    Raises:
        ConfigError: a value is out of its range.
    """

    limits: Limits = field(default_factory=Limits)
    cost: Cost = Cost.FLOPS
    cost_batch_size: int | None = None
    combine: Combine | None = None
    confidence: Confidence | None = None
    max_regret: float = DEFAULT_MAX_REGRET
    min_accuracy: float | None = None
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cost_batch_size is not None and (self.cost is not Cost.SECONDS or self.cost_batch_size < 1):
            raise ConfigError(
                f"cost_batch_size: got {self.cost_batch_size} with cost {self.cost.value!r};"
                " must be at least 1, and goes with cost 'seconds' alone"
            )
        if not 0 <= self.max_regret < 1:
            raise ConfigError(f"max_regret: got {self.max_regret}; must be at least 0 and under 1")
        if self.min_accuracy is not None and not 0 < self.min_accuracy <= 1:
            raise ConfigError(f"min_accuracy: got {self.min_accuracy}; must be above 0 and at most 1")
        if not 0 < self.level < 1:
            raise ConfigError(f"level: got {self.level}; must be above 0 and under 1")

    @property
    def promise(self) -> Promise:
        """What certificates say."""
        return Promise.MAX_REGRET if self.min_accuracy is None else Promise.MIN_ACCURACY

    @property
    def bound(self) -> float:
        """The number that ``default`` promises."""
        return self.max_regret if self.min_accuracy is None else self.min_accuracy

    @property
    def fast_bound(self) -> float:
        """The number that ``fast`` promises: one point of accuracy less than ``default``."""
        if self.min_accuracy is None:
            return min(self.max_regret + FAST_EXTRA, 1)
        return max(self.min_accuracy - FAST_EXTRA, 0)

    @property
    def rules(self) -> tuple[Rules, ...]:
        """The pairs of rules that may be chosen."""
        return tuple(
            rules
            for rules in ALL_RULES
            if self.combine in (None, rules.combine) and self.confidence in (None, rules.confidence)
        )

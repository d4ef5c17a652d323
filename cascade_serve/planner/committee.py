"""The members' outputs over the calibration rows, and what a policy makes of them: the engine's rules, row by row."""
# Shapes: N rows, K classes, M members, S stages.

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cascade_serve.core.arrays import BoolArray, Float64Array, FloatArray, IntArray
from cascade_serve.core.combine import Combine, include, is_usable, member_score, probabilities
from cascade_serve.core.confidence import Confidence, confidence
from cascade_serve.core.cost import Cost, cumulative_flops
from cascade_serve.core.gate import should_exit


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How a committee speaks together.

    Attributes:
        combine: how predictions become one.
        confidence: how sure it is.
    """

    combine: Combine
    confidence: Confidence


_TICK_S = 2**-30

ALL_RULES = tuple(Rules(combine=rule, confidence=function) for rule in Combine for function in Confidence)


@dataclass(frozen=True, kw_only=True, slots=True)
class Committee:
    """Members and what they said about labelled rows.

    Attributes:
        names: of the members.
        flops: of each, per image.
        temperatures: of each; their logits are divided by it.
        logits: of each, float32 [N, K]; rows that are not finite count as no answer.
        labels_N: int64 [N] in 0..K-1.
        seconds: of each, per image, as :func:`whole_ticks` gives them; NaN where not known, empty where none is.
    """

    names: tuple[str, ...]
    flops: tuple[int, ...]
    temperatures: tuple[float, ...]
    logits: tuple[FloatArray, ...]
    labels_N: IntArray
    seconds: tuple[float, ...] = ()

    @property
    def num_rows(self) -> int:
        """Rows."""
        return len(self.labels_N)

    def costs(self, cost: Cost) -> tuple[float, ...]:
        """Give each member's cost per image: FLOPs, or seconds, NaN where not known."""
        if cost is Cost.FLOPS:
            return tuple(float(flops) for flops in self.flops)
        return self.seconds or (math.nan,) * len(self.names)

    def rows(self, rows: IntArray) -> "Committee":
        """Give the committee's outputs on some of the rows.

        Args:
            rows: int64 indices.
        """
        return replace(self, logits=tuple(logits[rows] for logits in self.logits), labels_N=self.labels_N[rows])

    def score(self, member: int, combine: Combine, rows: IntArray | None = None) -> tuple[FloatArray, BoolArray]:
        """Give what the rule adds up for a member.

        Args:
            member: its index.
            combine: the rule.
            rows: int64 indices; None is all.

        Returns:
            scores float32 [N, K], and bool [N], which rows it has an answer for. The scores of others are those of
            zero logits, so that they warn of nothing on their way to being ignored.
        """
        logits_NK = self.logits[member] if rows is None else self.logits[member][rows]
        usable_N = is_usable(logits_NK)
        finite_NK = logits_NK if usable_N.all() else np.where(usable_N[:, None], logits_NK, np.float32(0))
        return member_score(combine, finite_NK, self.temperatures[member]), usable_N


def whole_ticks(seconds: float) -> float:
    """Round seconds per image to a multiple of 2**-30, about a nanosecond, and at least one; NaN stays.

    Sums of these over rows are exact up to 97 days, as sums of FLOPs are, so that rounding makes no policy cheaper than
    another that costs the same.
    """
    return seconds if math.isnan(seconds) else max(round(seconds / _TICK_S), 1) * _TICK_S


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """One stage of a policy, by the member's index.

    Attributes:
        member: index in the committee.
        threshold: rows at least this confident exit; None for the last stage.
    """

    member: int
    threshold: float | None = None


Gates = tuple[Gate, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a policy did with each row.

    Attributes:
        correct_N: bool [N].
        exit_stage_N: int64 [N], 0-based.
        flops_S: int64 [S], FLOPs spent on a row that exits at each stage.
        seconds_S: float64 [S], seconds spent on it; NaN where not known.
    """

    correct_N: BoolArray
    exit_stage_N: IntArray
    flops_S: IntArray
    seconds_S: Float64Array

    @property
    def accuracy(self) -> float:
        """Share of correct rows."""
        return float(self.correct_N.mean())

    @property
    def expected_flops(self) -> float:
        """Mean FLOPs per row."""
        return self.mean_cost(Cost.FLOPS)

    @property
    def expected_seconds(self) -> float | None:
        """Mean seconds per row; None where a member's are not known."""
        seconds = self.mean_cost(Cost.SECONDS)
        return None if math.isnan(seconds) else seconds

    @property
    def worst_case_flops(self) -> int:
        """FLOPs of a row that runs every stage."""
        return int(self.flops_S[-1])

    @property
    def exit_shares(self) -> tuple[float, ...]:
        """Share of the rows that leave at each stage."""
        counts_S = np.bincount(self.exit_stage_N, minlength=len(self.flops_S))
        return tuple(float(share) for share in counts_S / len(self.exit_stage_N))

    def mean_cost(self, cost: Cost) -> float:
        """Give mean FLOPs, or seconds, per row; NaN where not known."""
        return float((self.flops_S if cost is Cost.FLOPS else self.seconds_S)[self.exit_stage_N].mean())

    def rows(self, rows: IntArray) -> "Outcome":
        """Give the outcome on some of the rows (int64 indices)."""
        return replace(self, correct_N=self.correct_N[rows], exit_stage_N=self.exit_stage_N[rows])


def evaluate_policy(committee: Committee, rules: Rules, gates: Sequence[Gate]) -> Outcome:
    """Send every row through a policy, as the engine would.

    Args:
        committee: the members' outputs.
        rules: how they speak together.
        gates: the stages, in order.

    Returns:
        what became of each row. A row that no member had an answer for is wrong; one that the newest member has no
        answer for defers, whatever the running mean says.
    """
    rows, classes = committee.num_rows, committee.logits[0].shape[1]
    correct_N = np.zeros(rows, dtype=np.bool_)
    exit_stage_N = np.full(rows, len(gates) - 1, dtype=np.int64)
    left_B = np.arange(rows)
    sum_BK, count_B = np.zeros((rows, classes), dtype=np.float32), np.zeros(rows, dtype=np.int64)
    for stage, gate in enumerate(gates):
        score_BK, usable_B = committee.score(gate.member, rules.combine, left_B)
        sum_BK, count_B = include(rules.combine, sum_BK, count_B, score_BK, usable_B)
        running_BK = probabilities(rules.combine, sum_BK, count_B)
        correct_N[left_B] = (running_BK.argmax(axis=1) == committee.labels_N[left_B]) & (count_B > 0)
        if gate.threshold is None:
            break
        sure_B = np.where(usable_B, confidence(rules.confidence, running_BK), np.float32(np.nan))
        exits_B = should_exit(sure_B, np.full(len(left_B), gate.threshold, dtype=np.float32))
        exit_stage_N[left_B[exits_B]] = stage
        left_B, sum_BK, count_B = left_B[~exits_B], sum_BK[~exits_B], count_B[~exits_B]
    flops_S = np.array(cumulative_flops([committee.flops[gate.member] for gate in gates]), dtype=np.int64)
    seconds_S = np.cumsum([committee.costs(Cost.SECONDS)[gate.member] for gate in gates])
    return Outcome(correct_N=correct_N, exit_stage_N=exit_stage_N, flops_S=flops_S, seconds_S=seconds_S)

"""At the end of a stage: which rows exit, defer or fail, and what they would leave with."""
# Shapes: B rows at one gate, S stages, K classes; M members.

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cascade_serve.core.arrays import BoolArray, FloatArray
from cascade_serve.core.combine import are_usable, combine_all, combine_stages, is_usable, member_score
from cascade_serve.core.confidence import confidence
from cascade_serve.core.gate import should_exit
from cascade_serve.core.plan import Plan
from cascade_serve.core.request import ExitReason
from cascade_serve.engine.rows import Row
from cascade_serve.engine.slab import Rows, Slab
from cascade_serve.engine.ticket import REPLY_MARGIN_S, RowAnswer


class Gated(NamedTuple):
    """Rows that stand at the same gate.

    Attributes:
        stage: at whose end they stand, 0-based, in their routes.
        slots: theirs.
        rows: the same rows.
        where: the same slots, as numpy takes them.
    """

    stage: int
    slots: list[int]
    rows: list[Row]
    where: Rows


class Verdicts(NamedTuple):
    """What the gate says of each row; a row that neither exits nor fails defers.

    Attributes:
        confidence_B: NaN where the stage's member had no usable answer.
        answers: what a row that exits leaves with; None for the others.
        failing: positions of rows that stand at their last stage, and no member had a usable answer.
    """

    confidence_B: list[float]
    answers: list[RowAnswer | None]
    failing: frozenset[int] = frozenset()


class _Said(NamedTuple):
    """What the members so far say of rows together; NaN where none has a usable answer."""

    probabilities_BK: FloatArray
    label_B: list[int]
    confidence_B: list[float]

    def answer(self, position: int, row: Row, *, stage: int, reason: ExitReason, now_s: float) -> RowAnswer:
        """Give what the row at a position would leave with."""
        return RowAnswer(
            self.probabilities_BK[position : position + 1],
            self.label_B[position],
            self.confidence_B[position],
            stage,
            reason,
            row.flops,
            now_s,
        )


def score_logits(plan: Plan, member: int, logits_BK: FloatArray) -> tuple[FloatArray, BoolArray | None]:
    """Turn a member's output into what the plan's rule combines.

    Args:
        plan: the plan being served.
        member: index of the member that ran.
        logits_BK: float32 [B, K].

    Returns:
        its scores, float32 [B, K], and which rows of them are usable, bool [B]; None where all are, as nearly always.
    """
    temperature = plan.members[member].temperature
    if are_usable(logits_BK):
        return member_score(plan.combine, logits_BK, temperature), None
    usable_B = is_usable(logits_BK)
    finite_BK = np.where(usable_B[:, None], logits_BK, np.float32(0))
    return member_score(plan.combine, finite_BK, temperature), usable_B


def gate(plan: Plan, slab: Slab, gated: Gated, *, now_s: float, expected_s: Sequence[float]) -> Verdicts:
    """Judge rows at the end of a stage.

    Args:
        plan: the plan being served.
        slab: holds the scores; only read.
        gated: the rows, at least one; one that was closed meanwhile gets any verdict.
        now_s: on the engine's clock.
        expected_s: of each member, the seconds that its next run should take.

    Returns:
        the verdicts.
    """
    stage, rows = gated.stage, gated.rows
    said = _combine(plan, slab, gated.where, rows, stage + 1)
    sure_B, failing = said.confidence_B, frozenset[int]()
    if not _are_all_usable(rows, stage + 1):
        failing = frozenset(position for position, row in enumerate(rows) if _is_lost(row, stage))
        sure_B = [sure if row.usable >> stage & 1 else np.nan for row, sure in zip(rows, sure_B, strict=True)]
    reasons = [_judge(row, stage, sure, now_s, expected_s) for row, sure in zip(rows, sure_B, strict=True)]
    answers = [
        None if reason is None else said.answer(position, row, stage=stage, reason=reason, now_s=now_s)
        for position, (row, reason) in enumerate(zip(rows, reasons, strict=True))
    ]
    return Verdicts(sure_B, answers, failing)


def _judge(row: Row, stage: int, sure: float, now_s: float, expected_s: Sequence[float]) -> ExitReason | None:
    """Tell why a row leaves; None where it goes on, has nothing to leave with, or was closed meanwhile."""
    owner = row.owner
    if owner is None or not row.usable:
        return None
    route = owner.route
    if should_exit(sure, route.thresholds[stage]):
        return ExitReason.CONFIDENT
    if stage + 1 == len(route.members):
        return route.last_reason
    deadline_s = owner.request.deadline_s
    if deadline_s is None or not owner.answers_early:
        return None
    is_late = now_s + expected_s[route.members[stage + 1]] + REPLY_MARGIN_S > deadline_s
    return ExitReason.DEADLINE if is_late else None


def _is_lost(row: Row, stage: int) -> bool:
    owner = row.owner
    return owner is not None and not row.usable and stage + 1 == len(owner.route.members)


def answer_as_is(plan: Plan, slab: Slab, where: Rows, rows: Sequence[Row], now_s: float) -> list[RowAnswer] | None:
    """Answer rows whose time is up with what the stages done have said.

    Args:
        plan: the plan being served.
        slab: holds the scores; only read.
        where: of the rows' slots.
        rows: at least one.
        now_s: on the engine's clock.

    Returns:
        answers whose exit stage is the last that ran; None where one of the rows has no usable answer.
    """
    if not all(row.usable for row in rows):
        return None
    said = _combine(plan, slab, where, rows, max(row.ran for row in rows).bit_length())
    return [
        said.answer(position, row, stage=row.ran.bit_length() - 1, reason=ExitReason.DEADLINE, now_s=now_s)
        for position, row in enumerate(rows)
    ]


def _combine(plan: Plan, slab: Slab, where: Rows, rows: Sequence[Row], num_stages: int) -> _Said:
    """Combine what each row's members have said in their first stages."""
    scores_BSK = slab.score_RSK[where, :num_stages]
    if _are_all_usable(rows, num_stages):
        probabilities_BK = combine_all(plan.combine, scores_BSK)
    else:
        usable_BS = np.array([[row.usable >> stage & 1 for stage in range(num_stages)] for row in rows], dtype=np.bool_)
        probabilities_BK = combine_stages(plan.combine, scores_BSK, usable_BS)
    confidence_B = confidence(plan.confidence, probabilities_BK)
    return _Said(probabilities_BK, probabilities_BK.argmax(axis=1).tolist(), confidence_B.tolist())


def _are_all_usable(rows: Sequence[Row], num_stages: int) -> bool:
    every = (1 << num_stages) - 1
    for row in rows:  # noqa: SIM110 - all() would make a generator, and this runs for each batch
        if row.usable != every:
            return False
    return True

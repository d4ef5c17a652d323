"""At the end of a stage: which rows exit, defer or fail, and what they would leave with."""
# Shapes: B rows of the batch, R slots, S stages, K classes, M members.

from dataclasses import dataclass

import numpy as np

from cascade_serve.core.arrays import BoolArray, Float64Array, FloatArray, IntArray
from cascade_serve.core.combine import combine_stages, is_usable, member_score
from cascade_serve.core.confidence import confidence
from cascade_serve.core.gate import should_exit
from cascade_serve.core.plan import Plan
from cascade_serve.core.request import ExitReason
from cascade_serve.engine.slab import Answers, Slab


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What the gate says of each row; a row that neither exits nor fails defers.

    Attributes:
        confidence_B: float32 [B]; NaN where the stage's member had no usable answer.
        exits_B: bool [B], the row leaves with its answer.
        fails_B: bool [B], the row stands at its last stage and no member had a usable answer.
        answers: of all rows; those of rows that don't exit are provisional.
    """

    confidence_B: FloatArray
    exits_B: BoolArray
    fails_B: BoolArray
    answers: Answers


def score_logits(plan: Plan, member: int, logits_BK: FloatArray) -> tuple[FloatArray, BoolArray]:
    """Turn a member's output into what the plan's rule combines.

    Args:
        plan: the plan being served.
        member: index of the member that ran.
        logits_BK: float32 [B, K].

    Returns:
        its scores, float32 [B, K], and which rows of them are usable, bool [B].
    """
    usable_B = is_usable(logits_BK)
    if not usable_B.all():
        logits_BK = np.where(usable_B[:, None], logits_BK, np.float32(0))
    return member_score(plan.combine, logits_BK, plan.members[member].temperature), usable_B


def gate(
    plan: Plan, slab: Slab, slots: IntArray, stage_B: IntArray, *, now_s: float, stage_s_M: Float64Array
) -> Verdicts:
    """Judge rows at the end of a stage.

    Args:
        plan: the plan being served.
        slab: holds the rows; only read.
        slots: int64 [B], at least one.
        stage_B: int64 [B], the stage each row has just ended.
        now_s: on the engine's clock.
        stage_s_M: float64 [M], seconds to allow for a stage of each member.

    Returns:
        the verdicts.
    """
    answer_BK, answer_B = _running_answer(plan, slab, slots, int(stage_B.max()) + 1)
    confidence_B = np.where(slab.usable_RS[slots, stage_B], answer_B, np.float32(np.nan))
    confident_B = should_exit(confidence_B, slab.threshold_RS[slots, stage_B])
    is_last_B = stage_B == slab.last_stage_R[slots]
    late_B = _is_late(slab, slots, stage_B, now_s, stage_s_M)
    speechless_B = np.isnan(answer_B)
    reason_B = np.where(late_B, np.uint8(ExitReason.DEADLINE), np.uint8(ExitReason.CONFIDENT))
    reason_B = np.where(is_last_B, slab.last_reason_R[slots], reason_B)
    reason_B = np.where(confident_B, np.uint8(ExitReason.CONFIDENT), reason_B)
    return Verdicts(
        confidence_B=confidence_B,
        exits_B=(confident_B | is_last_B | late_B) & ~speechless_B,
        fails_B=is_last_B & speechless_B,
        answers=Answers(answer_BK, answer_B, stage_B, reason_B),
    )


def answer_as_is(plan: Plan, slab: Slab, slots: IntArray) -> Answers:
    """Answer rows whose time is up with what the stages done have said.

    Args:
        plan: the plan being served.
        slab: holds the rows; only read.
        slots: int64 [B].

    Returns:
        answers whose exit stage is the last that ran; their confidence is NaN where no member had a usable answer.
    """
    stages = slab.ran_RS.shape[1]
    answer_BK, answer_B = _running_answer(plan, slab, slots, stages)
    exit_stage_B = stages - 1 - slab.ran_RS[slots, ::-1].argmax(axis=1)
    return Answers(answer_BK, answer_B, exit_stage_B, np.full(len(slots), ExitReason.DEADLINE, dtype=np.uint8))


def _running_answer(plan: Plan, slab: Slab, slots: IntArray, num_stages: int) -> tuple[FloatArray, FloatArray]:
    """Combine what each row's members have said: probabilities [B, K], confidence [B]; NaN where none has."""
    stages = slice(0, num_stages)
    answer_BK = combine_stages(plan.combine, slab.score_RSK[slots, stages], slab.usable_RS[slots, stages])
    return answer_BK, confidence(plan.confidence, answer_BK)


def _is_late(slab: Slab, slots: IntArray, stage_B: IntArray, now_s: float, stage_s_M: Float64Array) -> BoolArray:
    """Tell which rows that may answer early would not finish their next stage in time."""
    answers_late_B = slab.answers_late_R[slots]
    if not answers_late_B.any():
        return answers_late_B
    next_B = np.minimum(stage_B + 1, slab.last_stage_R[slots])
    end_s_B = now_s + stage_s_M[slab.member_RS[slots, next_B]]
    late_B: BoolArray = answers_late_B & (end_s_B > slab.deadline_s_R[slots])
    return late_B

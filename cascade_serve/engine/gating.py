"""At the end of a stage: which rows exit, defer or fail, and what they would leave with."""
# Shapes: B rows at one gate, R slots, S stages, K classes, M members.

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cascade_serve.core.arrays import BoolArray, Float64Array, FloatArray
from cascade_serve.core.combine import are_usable, combine_stages, is_usable, member_score
from cascade_serve.core.confidence import confidence
from cascade_serve.core.gate import should_exit
from cascade_serve.core.plan import Plan
from cascade_serve.core.request import ExitReason
from cascade_serve.engine.slab import Answers, Rows, Slab

_CONFIDENT = np.uint8(ExitReason.CONFIDENT)
_DEADLINE = np.uint8(ExitReason.DEADLINE)
_NAN = np.float32(np.nan)


class Verdicts(NamedTuple):
    """What the gate says of each row; a row that neither exits nor fails defers.

    Attributes:
        confidence_B: float32 [B]; NaN where the stage's member had no usable answer.
        exits_B: bool [B], the row leaves with its answer.
        fails_B: bool [B], the row stands at its last stage and no member had a usable answer; None where no row does.
        answers: of all rows; those of rows that don't exit are provisional.
    """

    confidence_B: FloatArray
    exits_B: BoolArray
    fails_B: BoolArray | None
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
    if are_usable(logits_BK):
        usable_B = _all_of(len(logits_BK))
    else:
        usable_B = is_usable(logits_BK)
        logits_BK = np.where(usable_B[:, None], logits_BK, np.float32(0))
    return member_score(plan.combine, logits_BK, plan.members[member].temperature), usable_B


# NOTE: shared by all threads; never to be changed.
@lru_cache(maxsize=1024)
def _all_of(rows: int) -> BoolArray:
    every_B: BoolArray = np.ones(rows, dtype=np.bool_)
    every_B.flags.writeable = False
    return every_B


def gate(plan: Plan, slab: Slab, rows: Rows, stage: int, *, now_s: float, stage_s_M: Float64Array) -> Verdicts:
    """Judge rows at the end of a stage.

    Args:
        plan: the plan being served.
        slab: holds the rows; only read.
        rows: B of them, at least one.
        stage: the one they have just ended, 0-based, in their routes.
        now_s: on the engine's clock.
        stage_s_M: float64 [M], seconds to allow for a stage of each member.

    Returns:
        the verdicts.
    """
    answer_BK, answer_B = _running_answer(plan, slab, rows, stage + 1)
    usable_BS = slab.usable_RS[rows, : stage + 1]
    # Nearly always; a few rows spend most of their time here on numpy's calls, whatever these do.
    have_all_spoken = bool(np.logical_and.reduce(usable_BS, axis=None))
    confidence_B = answer_B if have_all_spoken else np.where(usable_BS[:, stage], answer_B, _NAN)
    confident_B = should_exit(confidence_B, slab.threshold_RS[rows, stage])
    is_last_B = slab.last_stage_R[rows] == stage
    leaves_B, forced_B = confident_B | is_last_B, slab.last_reason_R[rows]
    early_B = slab.answers_early_R[rows]
    if np.logical_or.reduce(early_B):
        leaves_B |= early_B & _is_late(slab, rows, stage, now_s, stage_s_M)
        forced_B = np.where(is_last_B, forced_B, _DEADLINE)
    stage_B = np.empty(len(answer_B), dtype=np.int64)
    stage_B.fill(stage)
    answers = Answers(answer_BK, answer_B, stage_B, np.where(confident_B, _CONFIDENT, forced_B))
    if have_all_spoken:
        return Verdicts(confidence_B, exits_B=leaves_B, fails_B=None, answers=answers)
    is_silent_B = np.isnan(answer_B)
    return Verdicts(confidence_B, exits_B=leaves_B & ~is_silent_B, fails_B=is_last_B & is_silent_B, answers=answers)


def answer_as_is(plan: Plan, slab: Slab, rows: Rows) -> Answers:
    """Answer rows whose time is up with what the stages done have said.

    Args:
        plan: the plan being served.
        slab: holds the rows; only read.
        rows: B of them, at least one.

    Returns:
        answers whose exit stage is the last that ran; their confidence is NaN where no member had a usable answer.
    """
    stages = slab.ran_RS.shape[1]
    answer_BK, answer_B = _running_answer(plan, slab, rows, stages)
    exit_stage_B = stages - 1 - slab.ran_RS[rows, ::-1].argmax(axis=1)
    return Answers(answer_BK, answer_B, exit_stage_B, np.full(len(answer_B), ExitReason.DEADLINE, dtype=np.uint8))


def _running_answer(plan: Plan, slab: Slab, rows: Rows, num_stages: int) -> tuple[FloatArray, FloatArray]:
    """Combine what each row's members have said: probabilities [B, K], confidence [B]; NaN where none has."""
    stages = slice(0, num_stages)
    answer_BK = combine_stages(plan.combine, slab.score_RSK[rows, stages], slab.usable_RS[rows, stages])
    return answer_BK, confidence(plan.confidence, answer_BK)


def _is_late(slab: Slab, rows: Rows, stage: int, now_s: float, stage_s_M: Float64Array) -> BoolArray:
    """Tell which rows would not finish their next stage in time."""
    next_stage = min(stage + 1, slab.member_RS.shape[1] - 1)
    end_s_B = now_s + stage_s_M[slab.member_RS[rows, next_stage]]
    late_B: BoolArray = end_s_B > slab.deadline_s_R[rows]
    return late_B

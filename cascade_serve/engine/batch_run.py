"""Runs one batch through one member; where that fails, once more row by row, so that a bad row fails alone."""
# Shapes: B rows of the batch, K classes.

import logging
from typing import NamedTuple

import numpy as np

from cascade_serve.core.arrays import BoolArray, FloatArray
from cascade_serve.core.plan import Plan
from cascade_serve.engine.gating import score_logits
from cascade_serve.engine.protocol import Runner
from cascade_serve.engine.slab import Slab, rows_of
from cascade_serve.errors import MemberError

_log = logging.getLogger(__name__)


class BatchOutcome(NamedTuple):
    """What came of a batch.

    Attributes:
        score_BK: float32 [B, K], what the plan's rule combines.
        usable_B: bool [B], rows whose output was finite throughout; None where all were, as nearly always.
        failed_B: bool [B], rows on which the member raised even when they ran alone; None where they ran together.
        fault: what it raised over a blank image too, where every row failed, so that no row is to blame; else empty.
    """

    score_BK: FloatArray
    usable_B: BoolArray | None
    failed_B: BoolArray | None = None
    fault: str = ""


def run_batch(plan: Plan, slab: Slab, runner: Runner, member: int, slots: list[int]) -> BatchOutcome:
    """Run a member over the images of some slots.

    Args:
        plan: the plan being served.
        slab: holds the images; only read.
        runner: a free set of sessions.
        member: its index in the plan.
        slots: of the rows, at least one.

    Returns:
        the outcome; a member that raises is logged and noted.
    """
    try:
        logits_BK = runner.run(member, slab.images_RHWC[rows_of(slots)])
    except MemberError as error:
        _log.warning("member %r failed on a batch of %d: %s", plan.members[member].name, len(slots), error)
        return _run_rows(plan, slab, runner, member, slots)
    score_BK, usable_B = score_logits(plan, member, logits_BK)
    return BatchOutcome(score_BK, usable_B)


def _run_rows(plan: Plan, slab: Slab, runner: Runner, member: int, slots: list[int]) -> BatchOutcome:
    logits_BK = np.zeros((len(slots), len(plan.task.classes)), dtype=np.float32)
    failed_B: BoolArray = np.zeros(len(slots), dtype=np.bool_)
    for row, slot in enumerate(slots):
        try:
            logits_BK[row] = runner.run(member, slab.images_RHWC[slot : slot + 1])[0]
        except MemberError:
            failed_B[row] = True
    score_BK, usable_B = score_logits(plan, member, logits_BK)
    fault = _find_fault(plan, runner, member) if failed_B.all() else ""
    return BatchOutcome(score_BK, ~failed_B if usable_B is None else usable_B & ~failed_B, failed_B, fault)


def _find_fault(plan: Plan, runner: Runner, member: int) -> str:
    try:
        runner.run(member, np.zeros((1, *plan.task.image_shape), dtype=np.uint8))
    except MemberError as error:
        _log.error("member %r fails on every image: %s", plan.members[member].name, error)
        return str(error)
    return ""

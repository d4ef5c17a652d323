"""Runs one batch on a lane; where that fails, once more row by row, so that a bad row fails alone."""
# Shapes: B rows of the batch, K classes.

import logging
from dataclasses import dataclass, fields

import numpy as np

from cascade_serve.core.arrays import BoolArray
from cascade_serve.core.plan import Plan
from cascade_serve.engine.cuda.lane import Lane, Load, Verdicts, padding_load
from cascade_serve.errors import MemberError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What came of a batch.

    Attributes:
        verdicts: of its rows.
        failed_B: bool [B], rows on which the member failed even when they ran alone; None when nothing failed.
        fault: what it failed for over a blank image too, where every row failed, so that no row is to blame; else
            empty.
    """

    verdicts: Verdicts
    failed_B: BoolArray | None = None
    fault: str = ""


def run_batch(lane: Lane, plan: Plan, member: int, load: Load, padding_slot: int) -> BatchOutcome:
    """Run a member over rows.

    Args:
        lane: free.
        plan: the plan being served.
        member: its index in the plan.
        load: the rows.
        padding_slot: the slot that is nobody's, whose image is blank.

    Returns:
        the outcome; a member that fails is logged and noted.
    """
    try:
        lane.launch(member, load)
        return BatchOutcome(lane.wait())
    except MemberError as error:
        _log.warning("member %r failed on a batch of %d: %s", plan.members[member].name, len(load.slot_B), error)
        return _run_rows(lane, plan, member, load, padding_slot)


def _run_rows(lane: Lane, plan: Plan, member: int, load: Load, padding_slot: int) -> BatchOutcome:
    rows = len(load.slot_B)
    together = _silent_verdicts(rows, len(plan.task.classes))
    failed_B: BoolArray = np.zeros(rows, dtype=np.bool_)
    for row in range(rows):
        try:
            lane.launch(member, load.row(row))
            alone = lane.wait()
        except MemberError:
            failed_B[row] = True
            continue
        for field in fields(Verdicts):
            said = getattr(alone, field.name)
            if said is not None:
                getattr(together, field.name)[row] = said[0]
    fault = _find_fault(lane, plan, member, padding_slot) if failed_B.all() else ""
    return BatchOutcome(together, failed_B, fault)


def _find_fault(lane: Lane, plan: Plan, member: int, padding_slot: int) -> str:
    try:
        lane.launch(member, padding_load(1, padding_slot))
        lane.wait()
    except MemberError as error:
        _log.error("member %r fails on every image: %s", plan.members[member].name, error)
        return str(error)
    return ""


def _silent_verdicts(rows: int, classes: int) -> Verdicts:
    """Say nothing of rows: they neither exit nor fail."""
    return Verdicts(
        label_B=np.zeros(rows, dtype=np.int64),
        confidence_B=np.full(rows, np.nan, dtype=np.float32),
        usable_B=np.zeros(rows, dtype=np.bool_),
        confident_B=np.zeros(rows, dtype=np.bool_),
        exits_B=np.zeros(rows, dtype=np.bool_),
        fails_B=np.zeros(rows, dtype=np.bool_),
        probabilities_BK=np.full((rows, classes), np.nan, dtype=np.float32),
    )

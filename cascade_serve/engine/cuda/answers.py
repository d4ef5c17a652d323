"""The host's side of the slots: which are free, which rows are open, and what each would leave with."""
# Shapes: R slots, B rows of a batch or request, K classes.

import numpy as np

from cascade_serve.core.arrays import BoolArray, CodeArray, Float64Array, FloatArray, IntArray
from cascade_serve.core.plan import Plan
from cascade_serve.core.request import ExitReason
from cascade_serve.engine.cuda.lane import Verdicts
from cascade_serve.errors import OverloadedError

Rows = IntArray | slice


class AnswerSlab:
    """Arrays over slots. Not thread-safe: the engine's lock guards it; a closed request's rows nobody writes any more.

    A row is *open* from admission until it has its answer or its request has ended. While it is open, what stands here
    is what it would leave with if its time were up.

    Args:
        plan: gives the classes.
        num_slots: rows held at the same time.
    """

    def __init__(self, plan: Plan, num_slots: int) -> None:
        self.probabilities_RK: FloatArray = np.zeros((num_slots, len(plan.task.classes)), dtype=np.float32)
        self.label_R: IntArray = np.zeros(num_slots, dtype=np.int64)
        self.confidence_R: FloatArray = np.zeros(num_slots, dtype=np.float32)
        self.stage_R: IntArray = np.zeros(num_slots, dtype=np.int64)
        self.reason_R: CodeArray = np.zeros(num_slots, dtype=np.uint8)
        self.exited_s_R: Float64Array = np.zeros(num_slots, dtype=np.float64)
        self.is_open_R: BoolArray = np.zeros(num_slots, dtype=np.bool_)
        self._free = list(range(num_slots - 1, -1, -1))

    @property
    def num_slots(self) -> int:
        """Rows that fit."""
        return len(self.label_R)

    @property
    def num_free(self) -> int:
        """Slots that no request holds."""
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """Take slots for a request.

        Raises:
            OverloadedError: too few are free.
        """
        if count > self.num_free:
            raise OverloadedError(
                f"{count} rows: only {self.num_free} of {self.num_slots} slots (max_queue_rows) are free"
            )
        taken = self._free[-count:]
        del self._free[-count:]
        taken.reverse()
        return taken

    def give_back(self, slots: list[int]) -> None:
        """Free slots. A run given back whole is handed out as a run again."""
        self._free.extend(reversed(slots))

    def open(self, slot_B: IntArray) -> None:
        """Open a request's rows: nothing has been said of them."""
        self.is_open_R[slot_B] = True
        self.confidence_R[slot_B] = np.nan

    def note(self, slot_B: IntArray, stage_B: IntArray, verdicts: Verdicts, chosen: Rows) -> None:
        """Write down what a batch said of rows.

        Args:
            slot_B: int64 [B], of the whole batch.
            stage_B: int64 [B], at whose ends its rows stand.
            verdicts: of the whole batch.
            chosen: the positions in the batch to write down.
        """
        slots = slot_B[chosen]
        self.label_R[slots] = verdicts.label_B[chosen]
        self.confidence_R[slots] = verdicts.confidence_B[chosen]
        self.stage_R[slots] = stage_B[chosen]
        if verdicts.probabilities_BK is not None:
            self.probabilities_RK[slots] = verdicts.probabilities_BK[chosen]

    def exit(self, slot_B: IntArray, reason_B: CodeArray | ExitReason, now_s: float) -> None:
        """Close rows with what stands here."""
        self.reason_R[slot_B] = reason_B
        self.exited_s_R[slot_B] = now_s
        self.is_open_R[slot_B] = False

"""The slab: one slot a row, holding its image, its terms, what the members said, and its answer."""
# Shapes: R slots, B rows of a batch or request, S stages of the longest policy, K classes, X bytes, HWC image.

from typing import NamedTuple

import numpy as np

from cascade_serve.core.arrays import BoolArray, CodeArray, Float64Array, FloatArray, ImageArray, IntArray
from cascade_serve.core.plan import Plan
from cascade_serve.core.request import OnDeadline, Request
from cascade_serve.core.route import Route

Rows = slice | IntArray
"""Some slots, as numpy indexes them: a slice where they are a run, which spares a copy, else int64 [B]."""


def rows_of(slots: list[int]) -> Rows:
    """Turn a list of at least one slot into an index."""
    first, count = slots[0], len(slots)
    if count == 1 or (slots[-1] - first == count - 1 and slots == list(range(first, first + count))):
        return slice(first, first + count)
    return np.array(slots, dtype=np.int64)


class Answers(NamedTuple):
    """What rows leave with, as in :class:`~cascade_serve.core.request.Reply`."""

    probabilities_BK: FloatArray
    confidence_B: FloatArray
    exit_stage_B: IntArray
    exit_reason_B: CodeArray

    def of(self, chosen: list[int]) -> "Answers":
        """Give the answers of some rows, by their positions."""
        return Answers(
            self.probabilities_BK[chosen],
            self.confidence_B[chosen],
            self.exit_stage_B[chosen],
            self.exit_reason_B[chosen],
        )


class RowAnswers(NamedTuple):
    """What rows have left with, copied out of their slots, as in :class:`~cascade_serve.core.request.Reply`."""

    probabilities_BK: FloatArray
    label_B: IntArray
    confidence_B: FloatArray
    exit_stage_B: IntArray
    exit_reason_B: CodeArray
    flops_B: IntArray
    exited_s_B: Float64Array

    def between(self, start: int, end: int) -> "RowAnswers":
        """Give the answers of a run of rows, without a copy."""
        return RowAnswers(
            self.probabilities_BK[start:end],
            self.label_B[start:end],
            self.confidence_B[start:end],
            self.exit_stage_B[start:end],
            self.exit_reason_B[start:end],
            self.flops_B[start:end],
            self.exited_s_B[start:end],
        )


_ANSWER = np.dtype(
    [
        ("exited_s", np.float64),
        ("flops", np.int64),
        ("exit_stage", np.int64),
        ("confidence", np.float32),
        ("exit_reason", np.uint8),
    ],
    align=True,
)


def _record(stages: int) -> np.dtype[np.void]:
    """Lay out what a row is written with at once: a column at a time would take ten times as long."""
    return np.dtype(
        [
            ("deadline_s", np.float64),
            ("last_stage", np.int64),
            ("spent_flops", np.int64),
            ("flops", np.int64, (stages,)),
            ("member", np.int64, (stages,)),
            ("threshold", np.float32, (stages,)),
            ("usable", np.bool_, (stages,)),
            ("ran", np.bool_, (stages,)),
            ("last_reason", np.uint8),
            ("answers_early", np.bool_),
        ],
        align=True,
    )


class Slab:
    """Arrays over slots. Stages refer to rows by slot, so an image is copied once, at admission.

    A slot belongs to one request from :meth:`take` to :meth:`give_back`. Its image and terms are written once, by the
    thread that admits it. The rest is written under the engine's lock, because a request may end, by its deadline or
    its caller, while a member is still running over its rows.

    Args:
        plan: gives the image size, the classes and the longest policy.
        num_slots: rows held at the same time.

    Attributes:
        num_slots: rows that fit.
    """

    def __init__(self, plan: Plan, num_slots: int) -> None:
        stages = max(len(policy.stages) for policy in plan.policies.values())
        classes = len(plan.task.classes)
        self.num_slots = num_slots
        self.images_RHWC: ImageArray = np.zeros((num_slots, *plan.task.image_shape), dtype=np.uint8)
        self._records_R = np.zeros(num_slots, dtype=_record(stages))
        self._bytes_RX: CodeArray = self._records_R.view(np.uint8).reshape(num_slots, -1)
        # Columns of the records. The terms that the row came with:
        self.threshold_RS: FloatArray = self._records_R["threshold"]
        self.flops_RS: IntArray = self._records_R["flops"]
        self.member_RS: IntArray = self._records_R["member"]
        self.last_stage_R: IntArray = self._records_R["last_stage"]
        self.last_reason_R: CodeArray = self._records_R["last_reason"]
        self.deadline_s_R: Float64Array = self._records_R["deadline_s"]
        self.answers_early_R: BoolArray = self._records_R["answers_early"]
        # What has happened to it so far:
        self.ran_RS: BoolArray = self._records_R["ran"]
        self.usable_RS: BoolArray = self._records_R["usable"]
        self.spent_flops_R: IntArray = self._records_R["spent_flops"]
        # What the members said so far.
        self.score_RSK: FloatArray = np.zeros((num_slots, stages, classes), dtype=np.float32)
        # The answer.
        self.probabilities_RK: FloatArray = np.zeros((num_slots, classes), dtype=np.float32)
        self._answers_R = np.zeros(num_slots, dtype=_ANSWER)
        # To look a column up takes as long as to write it.
        self._confidence_R: FloatArray = self._answers_R["confidence"]
        self._exit_stage_R: IntArray = self._answers_R["exit_stage"]
        self._exit_reason_R: CodeArray = self._answers_R["exit_reason"]
        self._answer_flops_R: IntArray = self._answers_R["flops"]
        self._exited_s_R: Float64Array = self._answers_R["exited_s"]
        self._free = list(range(num_slots - 1, -1, -1))

    @property
    def num_free(self) -> int:
        """Slots that no request holds."""
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """Take ``count`` free slots, at most :attr:`num_free`; call under the engine's lock."""
        taken = self._free[-count:]
        del self._free[-count:]
        taken.reverse()
        return taken

    def give_back(self, slots: list[int]) -> None:
        """Free slots; call under the engine's lock. A run given back whole is handed out as a run again."""
        self._free.extend(reversed(slots))

    def blank(self, route: Route, on_deadline: OnDeadline) -> CodeArray:
        """Make the record of a row that has just come in and has no deadline.

        Returns:
            its bytes, uint8 [X]: the same for all rows on the same terms.
        """
        record = np.zeros(1, dtype=self._records_R.dtype)
        stages = slice(0, len(route.members))
        record["threshold"][:, stages] = route.thresholds
        record["flops"][:, stages] = route.flops
        record["member"][:, stages] = route.members
        record["last_stage"] = len(route.members) - 1
        record["last_reason"] = route.last_reason
        record["deadline_s"] = np.inf
        record["answers_early"] = on_deadline is OnDeadline.ANSWER
        return record.view(np.uint8)

    def fill(self, rows: Rows, request: Request, blank_X: CodeArray) -> None:
        """Write a request's rows, whose terms are in ``blank_X``, into its slots."""
        self.images_RHWC[rows] = request.images_BHWC
        self._bytes_RX[rows] = blank_X
        if request.deadline_s is not None:
            self.deadline_s_R[rows] = request.deadline_s

    def note(self, rows: Rows, stage: int, score_BK: FloatArray, usable_B: BoolArray) -> None:
        """Write down what a member said of rows, in whose routes it stands at ``stage``."""
        self.score_RSK[rows, stage] = score_BK
        self.usable_RS[rows, stage] = usable_B
        self.ran_RS[rows, stage] = True
        self.spent_flops_R[rows] += self.flops_RS[rows, stage]

    def answer(self, rows: Rows, answers: Answers, now_s: float) -> None:
        """Write down what rows leave with."""
        self.probabilities_RK[rows] = answers.probabilities_BK
        self._confidence_R[rows] = answers.confidence_B
        self._exit_stage_R[rows] = answers.exit_stage_B
        self._exit_reason_R[rows] = answers.exit_reason_B
        self._answer_flops_R[rows] = self.spent_flops_R[rows]
        self._exited_s_R[rows] = now_s

    def read(self, slots: list[int]) -> RowAnswers:
        """Copy out what rows have left with."""
        slot_B = np.array(slots, dtype=np.int64)
        probabilities_BK, records_B = self.probabilities_RK[slot_B], self._answers_R[slot_B]
        return RowAnswers(
            probabilities_BK,
            probabilities_BK.argmax(axis=1),
            records_B["confidence"],
            records_B["exit_stage"],
            records_B["exit_reason"],
            records_B["flops"],
            records_B["exited_s"],
        )

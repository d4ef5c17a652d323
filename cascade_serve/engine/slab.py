"""The slab: one slot a row, holding its image and what the members have said of it."""
# Shapes: R slots, B rows of a batch or request, S stages of the longest policy, K classes, HWC image.

import numpy as np

from cascade_serve.core.arrays import FloatArray, ImageArray, IntArray
from cascade_serve.core.plan import Plan

Rows = slice | IntArray
"""Some slots, as numpy indexes them: a slice where they are a run, which spares a copy, else int64 [B]."""


def rows_of(slots: list[int]) -> Rows:
    """Turn a list of at least one slot into an index."""
    first, count = slots[0], len(slots)
    if count == 1 or (slots[-1] - first == count - 1 and slots == list(range(first, first + count))):
        return slice(first, first + count)
    return np.array(slots, dtype=np.int64)


class Slab:
    """Arrays over slots. Stages refer to rows by slot, so an image is copied once, at admission.

    A slot belongs to one request from :meth:`take` to :meth:`give_back`. Its image is written once, by the thread that
    admits it; scores are written under the engine's lock. What is one number a row, Python keeps: for the few rows of a
    batch, each call of numpy costs more than what it computes (see :class:`~cascade_serve.engine.rows.Row`).

    Args:
        plan: gives the image size, the classes and the longest policy.
        num_slots: rows held at the same time.

    Attributes:
        num_slots: rows that fit.
        images_RHWC: uint8 [R, H, W, C].
        score_RSK: float32 [R, S, K], each member's score, by its stage in the row's route.
    """

    def __init__(self, plan: Plan, num_slots: int) -> None:
        stages = max(len(policy.stages) for policy in plan.policies.values())
        self.num_slots = num_slots
        self.images_RHWC: ImageArray = np.zeros((num_slots, *plan.task.image_shape), dtype=np.uint8)
        self.score_RSK: FloatArray = np.zeros((num_slots, stages, len(plan.task.classes)), dtype=np.float32)
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

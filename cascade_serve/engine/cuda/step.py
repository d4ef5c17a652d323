"""One batch on the device: gather the rows' images, run the member, add what it says, judge. What a graph captures."""
# Shapes: B rows of a bucket, R slots and one more for padding, K classes, HWC image.

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cascade_serve.core.combine import Combine
from cascade_serve.core.confidence import Confidence
from cascade_serve.core.plan import Plan
from cascade_serve.engine.cuda import rules
from cascade_serve.engine.cuda.columns import Columns


class DeviceSlab:
    """What the device holds of each row. A row is in one batch at a time, so nobody else touches its slot meanwhile.

    Args:
        plan: gives the image size and the classes.
        num_slots: rows held at the same time.
        device: where.

    Attributes:
        images_RHWC: uint8, written once, at admission.
        sum_RK: float32, sum of the scores of the members that have spoken.
        count_R: float32, how many that sum holds.
    """

    def __init__(self, plan: Plan, num_slots: int, device: torch.device) -> None:
        # The last slot is nobody's: rows that only fill a bucket are read from it, and written to it.
        rows, classes = num_slots + 1, len(plan.task.classes)
        self.images_RHWC = torch.zeros((rows, *plan.task.image_shape), dtype=torch.uint8, device=device)
        self.sum_RK = torch.zeros((rows, classes), dtype=torch.float32, device=device)
        self.count_R = torch.zeros(rows, dtype=torch.float32, device=device)

        image_bytes = self.images_RHWC[0].numel()
        # Eight bytes an element where they fit: a gather moves one element a thread.
        wide = torch.int64 if image_bytes % 8 == 0 else torch.uint8
        self._words_RW = self.images_RHWC.view(rows, image_bytes).view(wide)

    @property
    def padding_slot(self) -> int:
        """The slot that is nobody's."""
        return len(self.count_R) - 1

    def gather(self, slot_B: Tensor) -> Tensor:
        """Copy rows' images together, uint8 [B, H, W, C]: what is left of earlier batches becomes a dense one here."""
        words_BW = self._words_RW.index_select(0, slot_B)
        return words_BW.view(torch.uint8).view(len(slot_B), *self.images_RHWC.shape[1:])


@dataclass(frozen=True, slots=True)
class Member:
    """A member on the device.

    Attributes:
        module: takes uint8 [B, H, W, C], gives float32 logits [B, K].
        temperature: its logits are divided by this.
    """

    module: nn.Module
    temperature: float


@dataclass(frozen=True, slots=True)
class Step:
    """All that a batch needs besides its rows.

    Attributes:
        slab: of the rows.
        members: of the plan, by index.
        combine: how they speak together.
        confidence: how sure a prediction is.
    """

    slab: DeviceSlab
    members: tuple[Member, ...]
    combine: Combine
    confidence: Confidence

    def run(self, member: int, inputs: Columns, outputs: Columns, probabilities_BK: Tensor) -> None:
        """Run a member over rows, write what has been said of them to their slots, and judge them.

        All shapes are fixed by the bucket and nothing is read back, so it can be captured. What it leaves behind lies
        in the slab and in the arguments: tensors made on the way are dead at the end, and so graphs that never run at
        the same time may share one pool of memory.

        Args:
            member: its index.
            inputs: see ``INPUT_COLUMNS``.
            outputs: see ``OUTPUT_COLUMNS``; written.
            probabilities_BK: float32 [B, K]; written.
        """
        slab, slot_B, is_first_B = self.slab, inputs["slot"], inputs["is_first"]
        chosen = self.members[member]
        logits_BK = chosen.module(slab.gather(slot_B))
        if logits_BK.shape != probabilities_BK.shape:
            raise RuntimeError(f"logits: got {tuple(logits_BK.shape)}; must be {tuple(probabilities_BK.shape)}")
        score_BK, usable_B = rules.member_score(self.combine, logits_BK, chosen.temperature)
        sum_BK = slab.sum_RK.index_select(0, slot_B).masked_fill(is_first_B[:, None], 0)
        count_B = slab.count_R.index_select(0, slot_B).masked_fill(is_first_B, 0)
        said = rules.include(self.combine, rules.Said(sum_BK, count_B), score_BK, usable_B)
        # Rows that only fill the bucket share a slot: which of them is written last doesn't matter.
        slab.sum_RK.index_copy_(0, slot_B, said.sum_BK)
        slab.count_R.index_copy_(0, slot_B, said.count_B)
        so_far_BK = rules.probabilities(self.combine, said)
        rated_B = rules.confidence(self.confidence, so_far_BK)
        judgement = rules.judge(so_far_BK, rated_B, usable_B, inputs["threshold"], inputs["is_last"])
        probabilities_BK.copy_(judgement.probabilities_BK)
        outputs["label"].copy_(judgement.label_B)
        outputs["confidence"].copy_(judgement.confidence_B)
        outputs["usable"].copy_(usable_B)
        outputs["confident"].copy_(judgement.confident_B)
        outputs["exits"].copy_(judgement.exits_B)
        outputs["fails"].copy_(judgement.fails_B)

"""The rules of ``core`` on tensors: score, combine, confidence and gate, without a branch on what the rows hold.

``core`` is the standard; tests hold these to it. They differ in two things alone: the last bits, where a device's
exponential or order of adding differs, and that a row's members speak one after the other, so that a running sum a row
is enough. Nothing here synchronises, so all of it can be captured in a CUDA graph.
"""
# Shapes: B rows, K classes.

import math
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from cascade_serve.core.combine import LARGEST_LOGIT, Combine
from cascade_serve.core.confidence import Confidence


@dataclass(frozen=True, slots=True)
class Said:
    """What a row's members have said so far.

    Attributes:
        sum_BK: float32 [B, K], sum of the usable scores; with ``LAST`` the newest of them.
        count_B: float32 [B], how many members the sum holds; a whole number.
    """

    sum_BK: Tensor
    count_B: Tensor


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the gate says of each row; a row that neither exits nor fails defers.

    Attributes:
        probabilities_BK: float32 [B, K], of the committee so far; NaN where no member had a usable answer.
        label_B: int64 [B], the first of the largest probabilities.
        confidence_B: float32 [B] of these probabilities, in [0, 1] or NaN.
        confident_B: bool [B], the stage's member spoke and the confidence reaches the threshold. A tie does.
        exits_B: bool [B], the row leaves with its answer.
        fails_B: bool [B], the row stands at its last stage and no member had a usable answer.
    """

    probabilities_BK: Tensor
    label_B: Tensor
    confidence_B: Tensor
    confident_B: Tensor
    exits_B: Tensor
    fails_B: Tensor


def member_score(rule: Combine, logits_BK: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Turn a member's float32 logits into what the rule adds up; see :func:`cascade_serve.core.combine.member_score`.

    Returns:
        scores, float32 [B, K], finite on every row; and which rows of them are usable, bool [B].
    """
    # The largest magnitude is NaN where any value is, and NaN is not at most anything.
    usable_B = torch.linalg.vector_norm(logits_BK, ord=math.inf, dim=1) <= LARGEST_LOGIT
    logits_BK = logits_BK.masked_fill(~usable_B[:, None], 0.0)
    if temperature != 1.0:
        logits_BK = logits_BK / temperature
    return (logits_BK if rule is Combine.MEAN_LOGITS else logits_BK.softmax(dim=1)), usable_B


def include(rule: Combine, said: Said, score_BK: Tensor, usable_B: Tensor) -> Said:
    """Let one more member speak; see :func:`cascade_serve.core.combine.include`."""
    match rule:
        case Combine.MEAN_PROBS | Combine.MEAN_LOGITS:
            sum_BK = torch.where(usable_B[:, None], said.sum_BK + score_BK, said.sum_BK)
            return Said(sum_BK, said.count_B + usable_B)
        case Combine.LAST:
            return Said(torch.where(usable_B[:, None], score_BK, said.sum_BK), said.count_B.maximum(usable_B.float()))
        case _:
            assert_never(rule)


def probabilities(rule: Combine, said: Said) -> Tensor:
    """Give the committee's class probabilities, float32 [B, K]; NaN for rows that no member could speak for."""
    # Nothing was added for a silent row, so 0 / 0 makes the NaN; a softmax hands it on.
    mean_BK = said.sum_BK / said.count_B[:, None]
    return mean_BK.softmax(dim=1) if rule is Combine.MEAN_LOGITS else mean_BK


def confidence(function: Confidence, probabilities_BK: Tensor) -> Tensor:
    """Rate each prediction, float32 [B] in [0, 1]; NaN where it is. See :mod:`cascade_serve.core.confidence`."""
    num_classes = probabilities_BK.shape[1]
    if num_classes == 1:
        # One class is certain, unless it is NaN.
        return probabilities_BK[:, 0] * 0 + 1
    match function:
        case Confidence.MAX_PROB:
            rated_B = probabilities_BK.amax(dim=1)
        case Confidence.MARGIN:
            top_B2 = probabilities_BK.topk(2, dim=1).values
            rated_B = top_B2[:, 0] - top_B2[:, 1]
        case Confidence.ENTROPY:
            rated_B = 1 - torch.special.entr(probabilities_BK).sum(dim=1) / math.log(num_classes)
        case _:
            assert_never(function)
    return rated_B.clamp(0, 1)


def judge(
    probabilities_BK: Tensor, rated_B: Tensor, usable_B: Tensor, threshold_B: Tensor, is_last_B: Tensor
) -> Judgement:
    """Judge rows at the end of a stage; all but deadlines, which the device can't know.

    Args:
        probabilities_BK: float32 [B, K], of the committee so far.
        rated_B: float32 [B], their confidence.
        usable_B: bool [B], the stage's member had a usable answer.
        threshold_B: float32 [B], each row's own for this stage.
        is_last_B: bool [B], the row's route, by its policy or its cap, ends here.
    """
    # NaN reaches no threshold, and is not equal to itself.
    has_answer_B = rated_B == rated_B  # noqa: PLR0124
    confident_B = (rated_B >= threshold_B) & usable_B
    return Judgement(
        probabilities_BK=probabilities_BK,
        label_B=probabilities_BK.argmax(dim=1),
        confidence_B=rated_B,
        confident_B=confident_B,
        exits_B=confident_B | (is_last_B & has_answer_B),
        fails_B=is_last_B & ~has_answer_B,
    )

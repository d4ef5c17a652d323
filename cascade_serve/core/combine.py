"""What a committee says together: the running combination of the members that have spoken so far.

Source: Wang et al., "Wisdom of Committees" (ICLR 2022, arXiv 2012.01988), section 3: stage k's prediction is the mean
over members 1..k. Whether probabilities or logits are averaged differs between sources, so both are options.
"""
# Shapes: B rows, K classes, S stages.

from enum import StrEnum
from typing import assert_never

import numpy as np

from cascade_serve.core.arrays import BoolArray, FloatArray, IntArray

LARGEST_LOGIT = 1e30
"""Logits beyond this are no answer: dividing them by a temperature, or adding them up, could pass float32's range."""
_LARGEST = float(np.float32(LARGEST_LOGIT))
LEAST_TEMPERATURE = 1e-7
"""Neither a usable logit divided by this, nor the difference of two, passes float32's range."""


class Combine(StrEnum):
    """How the predictions of the members so far become one."""

    MEAN_PROBS = "mean_probs"
    """The mean of the softmax outputs."""
    MEAN_LOGITS = "mean_logits"
    """The softmax of the mean of the temperature-scaled logits."""
    LAST = "last"
    """The newest member's own softmax output."""


def softmax(logits_BK: FloatArray) -> FloatArray:
    """Turn float32 logits [B, K] into probabilities [B, K]; a row with a NaN or +inf gives NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _softmax(logits_BK)


def _softmax(logits_BK: FloatArray) -> FloatArray:
    # The reductions of numpy's methods, without the Python around them, which takes longer on a few rows. One memory
    # layout: numpy adds up the rows of a transposed array in another order, which rounds differently.
    largest_B1 = np.maximum.reduce(logits_BK, axis=1, keepdims=True)
    shifted_BK: FloatArray = np.subtract(logits_BK, largest_B1, order="C")
    np.exp(shifted_BK, out=shifted_BK)
    shifted_BK /= np.add.reduce(shifted_BK, axis=1, keepdims=True)
    return shifted_BK


def is_usable(logits_BK: FloatArray) -> BoolArray:
    """Tell which rows of a member's output [B, K] are finite throughout; the others are left out of any combination.

    A value beyond ``LARGEST_LOGIT`` counts as not finite.
    """
    usable_B: BoolArray = np.logical_and.reduce(np.abs(logits_BK) <= _LARGEST, axis=1)
    return usable_B


def are_usable(logits_BK: FloatArray) -> bool:
    """Tell whether all rows are usable, as nearly always, in fewer steps than :func:`is_usable`; [0, K] are."""
    return logits_BK.size == 0 or np.maximum.reduce(np.abs(logits_BK), axis=None).item() <= _LARGEST


def member_score(rule: Combine, logits_BK: FloatArray, temperature: float) -> FloatArray:
    """Turn one member's logits into what the rule adds up.

    Args:
        rule: the combination rule.
        logits_BK: float32 [B, K], usable throughout; others give numbers of no meaning, and perhaps numpy's warning.
        temperature: the member's calibration temperature (Guo et al. 2017), at least ``LEAST_TEMPERATURE``; logits are
            divided by it.

    Returns:
        float32 [B, K], finite: scaled logits for ``MEAN_LOGITS``, probabilities otherwise. A new array.
    """
    # A number of Python's own is rounded to the array's float32.
    scaled_BK: FloatArray = logits_BK / float(temperature)
    return scaled_BK if rule is Combine.MEAN_LOGITS else _softmax(scaled_BK)


def include(
    rule: Combine, sum_BK: FloatArray, count_B: IntArray, score_BK: FloatArray, usable_B: BoolArray
) -> tuple[FloatArray, IntArray]:
    """Let one more member speak.

    Args:
        rule: the combination rule.
        sum_BK: float32 [B, K], sum of the scores so far; zeros at first.
        count_B: int64 [B], how many members the sum holds.
        score_BK: float32 [B, K], the new member's :func:`member_score`.
        usable_B: bool [B]; where False the member is left out, as if it had not been asked.

    Returns:
        the new ``(sum_BK, count_B)``; the arguments are not changed.
    """
    use_B1 = usable_B[:, None]
    match rule:
        case Combine.MEAN_PROBS | Combine.MEAN_LOGITS:
            return np.where(use_B1, sum_BK + score_BK, sum_BK), count_B + usable_B
        case Combine.LAST:
            return np.where(use_B1, score_BK, sum_BK), np.maximum(count_B, usable_B.astype(np.int64))
        case _:
            assert_never(rule)


def probabilities(rule: Combine, sum_BK: FloatArray, count_B: IntArray) -> FloatArray:
    """Give the committee's class probabilities, float32 [B, K]; rows that no member could speak for are NaN."""
    silent_B = count_B == 0
    mean_BK: FloatArray = sum_BK / np.maximum(count_B, 1).astype(np.float32)[:, None]
    probabilities_BK = softmax(mean_BK) if rule is Combine.MEAN_LOGITS else mean_BK
    if silent_B.any():
        probabilities_BK[silent_B] = np.nan
    return probabilities_BK


def combine_stages(rule: Combine, scores_BSK: FloatArray, usable_BS: BoolArray) -> FloatArray:
    """Combine all stages of each row, in the order of the stages, so that the sum rounds the same way everywhere.

    Args:
        rule: the combination rule.
        scores_BSK: float32 [B, S, K] of :func:`member_score`; entries that are not usable are ignored.
        usable_BS: bool [B, S]; False for stages that did not run, or whose member gave no finite output.

    Returns:
        float32 [B, K] probabilities; NaN for rows without any usable stage.
    """
    rows, stages, classes = scores_BSK.shape
    if stages and np.logical_and.reduce(usable_BS, axis=None):
        return combine_all(rule, scores_BSK)
    sum_BK = np.zeros((rows, classes), dtype=np.float32)
    count_B = np.zeros(rows, dtype=np.int64)
    for stage in range(stages):
        sum_BK, count_B = include(rule, sum_BK, count_B, scores_BSK[:, stage], usable_BS[:, stage])
    return probabilities(rule, sum_BK, count_B)


def combine_all(rule: Combine, scores_BSK: FloatArray) -> FloatArray:
    """Do the same, to the bit and in fewer steps, where at least one stage ran and all are usable: nearly always."""
    stages = scores_BSK.shape[1]
    if rule is Combine.LAST:
        return scores_BSK[:, -1].copy()
    if stages == 1:
        return _softmax(scores_BSK[:, 0]) if rule is Combine.MEAN_LOGITS else scores_BSK[:, 0].copy()
    mean_BK: FloatArray = scores_BSK[:, 0] + scores_BSK[:, 1]
    for stage in range(2, stages):
        mean_BK += scores_BSK[:, stage]
    mean_BK /= stages
    return _softmax(mean_BK) if rule is Combine.MEAN_LOGITS else mean_BK

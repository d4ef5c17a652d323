"""Promises of the core for any scores: bounded confidence, batch invariance, monotone thresholds, kept caps."""
# Shapes: B rows, S stages, K classes.

import math
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cascade_serve.core.arrays import BoolArray, FloatArray, IntArray
from cascade_serve.core.combine import (
    Combine,
    combine_stages,
    include,
    is_usable,
    member_score,
    probabilities,
    softmax,
)
from cascade_serve.core.confidence import Confidence, confidence
from cascade_serve.core.cost import cumulative_flops, format_flops, num_stages_within, parse_flops
from cascade_serve.core.gate import should_exit

RULES = st.sampled_from(list(Combine))
FUNCTIONS = st.sampled_from(list(Confidence))
SIZES = st.tuples(st.integers(1, 12), st.integers(1, 4), st.integers(1, 40))
LOGITS = st.floats(-40, 40, width=32)
ROUGH_LOGITS = st.one_of(LOGITS, st.just(float("nan")), st.just(float("inf")), st.floats(width=32, allow_nan=False))
THRESHOLDS = st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4)


@dataclass(frozen=True)
class Committee:
    """What the members say about some rows."""

    logits_BSK: FloatArray
    temperatures: tuple[float, ...]

    def scores(self, rule: Combine) -> tuple[FloatArray, BoolArray]:
        stages = range(self.logits_BSK.shape[1])
        usable_BS = np.stack([is_usable(self.logits_BSK[:, stage]) for stage in stages], axis=1)
        safe_BSK = np.where(usable_BS[:, :, None], self.logits_BSK, np.float32(0))
        scores = [member_score(rule, safe_BSK[:, stage], self.temperatures[stage]) for stage in stages]
        return np.stack(scores, axis=1), usable_BS


@st.composite
def committees(draw: st.DrawFn, elements: st.SearchStrategy[float] = LOGITS) -> Committee:
    rows, stages, classes = draw(SIZES)
    logits_BSK = draw(hnp.arrays(np.float32, (rows, stages, classes), elements=elements))
    temperatures = draw(st.lists(st.floats(0.1, 10), min_size=stages, max_size=stages))
    return Committee(logits_BSK, tuple(temperatures))


def exit_stages(committee: Committee, rule: Combine, function: Confidence, thresholds: list[float]) -> IntArray:
    """Walk every row through the cascade with the core's rules; the last stage always answers."""
    rows, stages, classes = committee.logits_BSK.shape
    scores_BSK, usable_BS = committee.scores(rule)
    sum_BK = np.zeros((rows, classes), dtype=np.float32)
    count_B = np.zeros(rows, dtype=np.int64)
    exits_B = np.full(rows, stages - 1, dtype=np.int64)
    open_B = np.ones(rows, dtype=np.bool_)
    for stage in range(stages):
        sum_BK, count_B = include(rule, sum_BK, count_B, scores_BSK[:, stage], usable_BS[:, stage])
        confidence_B = confidence(function, probabilities(rule, sum_BK, count_B))
        threshold_B = np.full(rows, thresholds[stage] if stage < stages - 1 else math.inf, dtype=np.float32)
        leaves_B = open_B & should_exit(confidence_B, threshold_B)
        exits_B[leaves_B] = stage
        open_B &= ~leaves_B
    return exits_B


@given(committees(ROUGH_LOGITS), RULES, FUNCTIONS)
def test_confidence_lies_between_0_and_1_or_is_nan_where_nobody_spoke(
    committee: Committee, rule: Combine, function: Confidence
) -> None:
    scores_BSK, usable_BS = committee.scores(rule)
    confidence_B = confidence(function, combine_stages(rule, scores_BSK, usable_BS))
    assert confidence_B.dtype == np.float32
    silent_B = ~usable_BS.any(axis=1)
    assert np.array_equal(np.isnan(confidence_B), silent_B)
    spoken_B = confidence_B[~silent_B]
    assert np.all((spoken_B >= 0) & (spoken_B <= 1))


@given(committees(ROUGH_LOGITS), RULES)
def test_combined_probabilities_sum_to_1(committee: Committee, rule: Combine) -> None:
    scores_BSK, usable_BS = committee.scores(rule)
    sums_B = combine_stages(rule, scores_BSK, usable_BS).sum(axis=1)
    np.testing.assert_allclose(sums_B[usable_BS.any(axis=1)], 1, atol=1e-5)


@given(committees(ROUGH_LOGITS), RULES, FUNCTIONS)
def test_a_row_gets_the_same_bits_alone_as_in_any_batch(
    committee: Committee, rule: Combine, function: Confidence
) -> None:
    scores_BSK, usable_BS = committee.scores(rule)
    together_BK = combine_stages(rule, scores_BSK, usable_BS)
    confidence_B = confidence(function, together_BK)
    for row in range(len(scores_BSK)):
        lonely = Committee(committee.logits_BSK[row : row + 1], committee.temperatures)
        alone_1K = combine_stages(rule, *lonely.scores(rule))
        assert alone_1K.tobytes() == together_BK[row : row + 1].tobytes()
        assert confidence(function, alone_1K).tobytes() == confidence_B[row : row + 1].tobytes()


@given(committees(ROUGH_LOGITS), RULES, FUNCTIONS, st.randoms(use_true_random=False))
def test_permuting_rows_permutes_results(
    committee: Committee, rule: Combine, function: Confidence, random: Random
) -> None:
    order = list(range(len(committee.logits_BSK)))
    random.shuffle(order)
    shuffled = Committee(committee.logits_BSK[order], committee.temperatures)
    here_BK = combine_stages(rule, *committee.scores(rule))
    there_BK = combine_stages(rule, *shuffled.scores(rule))
    assert there_BK.tobytes() == here_BK[order].tobytes()
    assert confidence(function, there_BK).tobytes() == confidence(function, here_BK)[order].tobytes()


@given(committees(), FUNCTIONS)
def test_memory_layout_changes_no_bit(committee: Committee, function: Confidence) -> None:
    logits_BK = np.ascontiguousarray(committee.logits_BSK[:, 0])
    probabilities_BK = softmax(logits_BK)
    assert softmax(np.asfortranarray(logits_BK)).tobytes() == probabilities_BK.tobytes()
    transposed_BK = np.asfortranarray(probabilities_BK)
    assert confidence(function, transposed_BK).tobytes() == confidence(function, probabilities_BK).tobytes()


@given(committees(ROUGH_LOGITS), RULES)
def test_combining_at_once_equals_including_one_by_one(committee: Committee, rule: Combine) -> None:
    scores_BSK, usable_BS = committee.scores(rule)
    rows, stages, classes = scores_BSK.shape
    sum_BK, count_B = np.zeros((rows, classes), dtype=np.float32), np.zeros(rows, dtype=np.int64)
    for stage in range(stages):
        sum_BK, count_B = include(rule, sum_BK, count_B, scores_BSK[:, stage], usable_BS[:, stage])
        so_far_BK = combine_stages(rule, scores_BSK[:, : stage + 1], usable_BS[:, : stage + 1])
        assert probabilities(rule, sum_BK, count_B).tobytes() == so_far_BK.tobytes()


@given(committees(ROUGH_LOGITS), RULES, st.data())
def test_a_member_left_out_leaves_no_trace(committee: Committee, rule: Combine, data: st.DataObject) -> None:
    scores_BSK, usable_BS = committee.scores(rule)
    left_out = data.draw(st.integers(0, scores_BSK.shape[1] - 1))
    usable_BS[:, left_out] = False
    without_BK = combine_stages(rule, np.delete(scores_BSK, left_out, 1), np.delete(usable_BS, left_out, 1))
    assert combine_stages(rule, scores_BSK, usable_BS).tobytes() == without_BK.tobytes()


@given(committees(ROUGH_LOGITS), RULES, FUNCTIONS, THRESHOLDS, THRESHOLDS)
def test_raising_a_threshold_never_lowers_an_exit_stage(
    committee: Committee, rule: Combine, function: Confidence, thresholds: list[float], others: list[float]
) -> None:
    raised = [max(pair) for pair in zip(thresholds, others, strict=True)]
    low_B = exit_stages(committee, rule, function, thresholds)
    high_B = exit_stages(committee, rule, function, raised)
    assert np.all(high_B >= low_B)


@given(committees(), RULES, FUNCTIONS)
def test_threshold_0_exits_at_once_and_above_1_never(committee: Committee, rule: Combine, function: Confidence) -> None:
    stages = committee.logits_BSK.shape[1]
    assert np.all(exit_stages(committee, rule, function, [0.0] * stages) == 0)
    assert np.all(exit_stages(committee, rule, function, [1.1] * stages) == stages - 1)


@given(st.lists(st.integers(1, 2**40), min_size=1, max_size=6), st.integers(1, 2**44))
def test_a_cap_is_kept_and_used_as_far_as_it_goes(flops: list[int], cap: int) -> None:
    allowed = num_stages_within(flops, cap)
    assert sum(flops[:allowed]) <= cap
    if allowed < len(flops):
        assert sum(flops[: allowed + 1]) > cap
    assert all(a < b for a, b in pairwise(cumulative_flops(flops)))


@given(st.lists(st.integers(1, 2**40), min_size=1, max_size=6), st.integers(1, 2**44), st.integers(0, 2**44))
def test_a_larger_cap_never_allows_fewer_stages(flops: list[int], cap: int, more: int) -> None:
    assert num_stages_within(flops, cap) <= num_stages_within(flops, cap + more)


@given(st.integers(1, 2**63 - 1))
def test_whole_numbers_of_flops_are_read_exactly(flops: int) -> None:
    assert parse_flops(str(flops)) == flops


@given(st.integers(1, 10**15 - 10**12))
def test_written_flops_are_read_back_within_half_a_percent(flops: int) -> None:
    assert parse_flops(format_flops(flops)) == pytest.approx(flops, rel=0.005)


@given(st.text())
def test_any_text_is_read_or_refused_with_a_value_error(text: str) -> None:
    try:
        assert 1 <= parse_flops(text) < 2**63
    except ValueError as error:
        assert repr(text) in str(error)  # noqa: PT017

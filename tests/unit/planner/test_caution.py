"""More careful policies than the front's dearest, on two members whose rows can be counted by hand."""

import numpy as np
import pytest

from cascade_serve.core.combine import Combine
from cascade_serve.core.confidence import Confidence
from cascade_serve.core.cost import Cost
from cascade_serve.planner.caution import more_careful
from cascade_serve.planner.committee import Committee, Gate, Rules
from cascade_serve.planner.search import Candidate, Limits

RULES = Rules(combine=Combine.LAST, confidence=Confidence.MAX_PROB)
# The small member is ever surer, from 0.55 to 0.95, and wrong on its second row of ten; the large one is always right.
SURE_N = np.linspace(0.55, 0.95, 10)


def committee() -> Committee:
    small_NK = np.log(np.stack([SURE_N, 1 - SURE_N], axis=1)).astype(np.float32)
    small_NK[1] = small_NK[1, ::-1]
    large_NK = np.tile(np.array([4, 0], dtype=np.float32), (10, 1))
    return Committee(
        names=("small", "large"),
        flops=(10, 100),
        temperatures=(1.0, 1.0),
        logits=(small_NK, large_NK),
        labels_N=np.zeros(10, dtype=np.int64),
    )


def gates(threshold: float, last: int = 1) -> tuple[Gate, Gate]:
    return (Gate(member=1 - last, threshold=threshold), Gate(member=last))


def careful(dearest: Candidate, limits: Limits | None = None) -> tuple[Candidate, ...]:
    return more_careful(committee(), RULES, dearest, reference=1, limits=limits or Limits(), cost=Cost.FLOPS)


def test_thresholds_keep_a_share_of_what_they_lack_to_one() -> None:
    # All but the first row exit at 0.56; 0.67, 0.78 and 0.89 let 7, 4 and 2 of the ten out.
    dearest = Candidate(gates=gates(0.56), correct=9, mean_cost=10 + 0.1 * 100)
    found = careful(dearest)
    assert [candidate.gates[0].threshold for candidate in found] == pytest.approx([0.89, 0.78, 0.67])
    assert [candidate.mean_cost for candidate in found] == pytest.approx([90, 70, 40])
    assert [candidate.correct for candidate in found] == [10, 10, 10]
    assert {candidate.gates[1] for candidate in found} == {Gate(member=1)}


def test_those_that_save_nothing_are_left_out() -> None:
    # From 0.8 on: 0.85, 0.9 and 0.95 let 3, 2 and, by rounding, 1 or none out.
    dearest = Candidate(gates=gates(0.8), correct=10, mean_cost=10 + 0.6 * 100)
    assert [candidate.mean_cost for candidate in careful(dearest)] == pytest.approx([90, 80])


def test_the_mean_cap_holds() -> None:
    dearest = Candidate(gates=gates(0.56), correct=9, mean_cost=20)
    assert [candidate.mean_cost for candidate in careful(dearest, Limits(mean_flops=70))] == pytest.approx([70, 40])


@pytest.mark.parametrize("stages", [(Gate(member=1),), (Gate(member=0),), gates(0.56, last=0)])
def test_a_policy_that_does_not_end_with_the_reference_has_none(stages: tuple[Gate, ...]) -> None:
    assert careful(Candidate(gates=stages, correct=9, mean_cost=20)) == ()

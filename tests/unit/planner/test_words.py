"""A plan in words: what is printed of its stages can be typed again."""

import numpy as np
import pytest

from cascade_serve.core.plan import Policy, Stage
from cascade_serve.planner.committee import Gate
from cascade_serve.planner.planning import describe_gates
from cascade_serve.planner.words import describe_stages

# The last is what a more careful variant of the first has: a quarter of what that lacks to 1.
THRESHOLDS = (0.960029, 0.5, 1.0, 1 - 0.25 * (1 - 0.960029))


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_stages_typed_again_have_the_same_thresholds(threshold: float) -> None:
    stages = (Stage(member="small", threshold=threshold), Stage(member="large"))
    text = describe_stages(Policy(name="default", stages=stages, worst_case_flops=2))
    assert text == describe_gates(("small", "large"), (Gate(member=0, threshold=threshold), Gate(member=1)))
    first, last = text.split(",")
    assert first.startswith("small:")
    assert np.float32(first.removeprefix("small:")) == np.float32(threshold)
    assert last == "large"

"""Routes: what thresholds, caps and modes make of a policy."""

import math
import re
from collections.abc import Callable

import numpy as np
import pytest

from cascade_serve.core.combine import Combine
from cascade_serve.core.plan import Plan
from cascade_serve.core.request import ExitReason, Mode, Terms
from cascade_serve.core.route import make_route
from cascade_serve.errors import InvalidRequestError, NotFoundError


def float32s(*thresholds: float) -> tuple[float, ...]:
    return tuple(float(np.float32(threshold)) for threshold in thresholds)


def test_the_policy_as_planned(plan: Plan) -> None:
    route = make_route(plan, Terms())
    assert route.policy == "default"
    assert route.members == (0, 1, 2)
    assert route.flops == (10, 100, 1000)
    assert route.thresholds == float32s(0.9, 0.8, math.inf)
    assert route.last_reason is ExitReason.LAST_STAGE
    assert not route.is_ensemble
    assert route.is_certified


def test_members_follow_the_policys_own_order(plan: Plan) -> None:
    route = make_route(plan, Terms(policy="backwards"))
    assert route.members == (2, 0)
    assert route.flops == (1000, 10)
    assert route.thresholds == float32s(0.5, math.inf)
    assert not route.is_certified  # it carries no certificate


def test_one_threshold_stands_for_all_stages(plan: Plan) -> None:
    route = make_route(plan, Terms(confidence_threshold=0.7))
    assert route.thresholds == float32s(0.7, 0.7, math.inf)
    assert not route.is_certified


def test_one_threshold_a_stage_but_the_last(plan: Plan) -> None:
    route = make_route(plan, Terms(confidence_threshold=(0.6, 0.4)))
    assert route.thresholds == float32s(0.6, 0.4, math.inf)


def test_a_tuple_of_one_is_not_one_for_all(plan: Plan) -> None:
    assert make_route(plan, Terms(policy="backwards", confidence_threshold=(0.3,))).thresholds == float32s(
        0.3, math.inf
    )
    with pytest.raises(InvalidRequestError):
        make_route(plan, Terms(confidence_threshold=(0.3,)))


@pytest.mark.parametrize("given", [(), (0.5,), (0.5, 0.5, 0.5)])
def test_wrong_number_of_thresholds(plan: Plan, given: tuple[float, ...]) -> None:
    message = (
        f"confidence_threshold: got {len(given)} thresholds; must be one number, or 2 for policy 'default':"
        " one a stage but the last"
    )
    with pytest.raises(InvalidRequestError, match=f"^{re.escape(message)}$"):
        make_route(plan, Terms(confidence_threshold=given))


def test_a_single_stage_takes_no_threshold_or_one_for_all(plan: Plan) -> None:
    assert make_route(plan, Terms(policy="fast", confidence_threshold=())).thresholds == (math.inf,)
    assert make_route(plan, Terms(policy="fast", confidence_threshold=0.4)).thresholds == (math.inf,)


@pytest.mark.parametrize(
    ("cap", "members", "reason"),
    [
        (10, (0,), ExitReason.FLOP_CAP),
        (109, (0,), ExitReason.FLOP_CAP),
        (110, (0, 1), ExitReason.FLOP_CAP),
        (1109, (0, 1), ExitReason.FLOP_CAP),
        (1110, (0, 1, 2), ExitReason.LAST_STAGE),
        (10**18, (0, 1, 2), ExitReason.LAST_STAGE),
    ],
)
def test_caps_at_and_around_the_sums(plan: Plan, cap: int, members: tuple[int, ...], reason: ExitReason) -> None:
    route = make_route(plan, Terms(max_flops=cap))
    assert route.members == members
    assert len(route.flops) == len(route.thresholds) == len(members)
    assert route.thresholds == float32s(0.9, 0.8, math.inf)[: len(members)]
    assert route.last_reason is reason
    assert route.is_certified == (reason is ExitReason.LAST_STAGE)


def test_a_cap_keeps_the_thresholds_of_the_stages_that_are_left(plan: Plan) -> None:
    route = make_route(plan, Terms(max_flops=200, confidence_threshold=(0.6, 0.4)))
    assert route.thresholds == float32s(0.6, 0.4)


def test_a_cap_under_the_first_stage(plan: Plan) -> None:
    message = "max_flops: got 9; must be at least 10, the cost of the first stage of policy 'default'"
    with pytest.raises(InvalidRequestError, match=f"^{re.escape(message)}$"):
        make_route(plan, Terms(max_flops=9))


def test_ensemble_runs_what_the_cap_allows_and_is_not_certified(plan: Plan) -> None:
    whole = make_route(plan, Terms(mode=Mode.ENSEMBLE))
    assert whole.is_ensemble
    assert whole.members == (0, 1, 2)
    assert whole.thresholds == (math.inf,) * 3
    assert whole.last_reason is ExitReason.LAST_STAGE
    assert not whole.is_certified
    capped = make_route(plan, Terms(mode=Mode.ENSEMBLE, max_flops=500))
    assert capped.members == (0, 1)
    assert capped.last_reason is ExitReason.FLOP_CAP


def test_ensemble_ignores_thresholds(plan: Plan) -> None:
    for given in (0.5, (0.5, 0.5)):
        assert make_route(plan, Terms(mode=Mode.ENSEMBLE, confidence_threshold=given)).thresholds == (math.inf,) * 3


def test_ensemble_of_a_plan_that_averages_nothing(make_plan: Callable[..., Plan]) -> None:
    message = "mode: got ensemble; must be cascade: this plan combines by 'last', so nothing is averaged"
    with pytest.raises(InvalidRequestError, match=f"^{re.escape(message)}$"):
        make_route(make_plan(combine=Combine.LAST), Terms(mode=Mode.ENSEMBLE))


def test_unknown_policy_names_the_known(plan: Plan) -> None:
    with pytest.raises(NotFoundError, match=r"^policy 'schnell' not found; known: backwards, default, fast$"):
        make_route(plan, Terms(policy="schnell"))

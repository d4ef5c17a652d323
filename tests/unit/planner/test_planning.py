"""Studies of drawn members: what is chosen, what is promised, what is refused, and how often promises fail."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from planned_zoo import FLOPS, NAMES, draw_logits, draw_rows, write_zoo
from scipy import stats

from cascade_serve.core.combine import Combine
from cascade_serve.core.confidence import Confidence
from cascade_serve.core.cost import Cost
from cascade_serve.core.plan import Plan, Promise
from cascade_serve.errors import ConfigError, UnreachableError
from cascade_serve.planner.committee import Committee, Gate, Rules, evaluate_policy
from cascade_serve.planner.demands import Demands
from cascade_serve.planner.planning import Study, make_study, num_steps
from cascade_serve.planner.policies import draw_manual_plan, draw_plan
from cascade_serve.planner.search import Limits
from cascade_serve.planner.walk import MAX_PATH
from cascade_serve.planner.zoo_costs import read_seconds
from cascade_serve.planner.zoo_rows import ZooRows, read_zoo_members, read_zoo_task

ONE_PAIR = Demands(combine=Combine.MEAN_PROBS, confidence=Confidence.MAX_PROB)


def plan_of(tmp_path: Path, rows: ZooRows, demands: Demands) -> tuple[Plan, Study]:
    task_path = write_zoo(tmp_path / "zoo" / "animals", rows)
    study = make_study(rows, NAMES, FLOPS, demands)
    return draw_plan(study, read_zoo_task(task_path), read_zoo_members(task_path, NAMES), rows), study


def test_default_is_cheaper_than_the_reference_and_certified(tmp_path: Path) -> None:
    plan, study = plan_of(tmp_path, draw_rows(1, 6000), ONE_PAIR)
    default, fast, accurate, reference = (plan.policies[name] for name in ("default", "fast", "accurate", "reference"))
    assert plan.reference == "large"
    assert [stage.member for stage in reference.stages] == ["large"]
    assert default.expected_flops is not None
    assert default.expected_flops < 0.7 * FLOPS[2]
    assert default.certificate is not None
    assert default.certificate.promise is Promise.MAX_REGRET
    assert default.certificate.bound == 0.005
    assert default.certificate.n == len(study.rows_B) == 3000
    assert default.certificate.lower_bound >= -0.005
    assert fast.certificate is not None
    assert fast.certificate.bound == pytest.approx(0.015)
    assert fast.expected_flops is not None
    assert fast.expected_flops <= default.expected_flops
    assert accurate.accuracy is not None
    assert default.accuracy is not None
    assert accurate.accuracy > default.accuracy


def test_numbers_are_those_of_half_b_in_the_order_of_the_stages(tmp_path: Path) -> None:
    plan, study = plan_of(tmp_path, draw_rows(2, 2000), ONE_PAIR)
    half_B = study.committee.rows(study.rows_B)
    for policy in plan.policies.values():
        gates = [Gate(member=NAMES.index(stage.member), threshold=stage.threshold) for stage in policy.stages]
        outcome = evaluate_policy(half_B, study.chosen.rules, gates)
        assert (policy.accuracy, policy.expected_flops) == (outcome.accuracy, outcome.expected_flops)
        assert policy.exit_shares == outcome.exit_shares
        assert policy.accuracy_interval is not None
        assert policy.accuracy_interval[0] < outcome.accuracy < policy.accuracy_interval[1]


def test_front_goes_from_cheap_to_dear_and_is_thinned(tmp_path: Path) -> None:
    plan, _ = plan_of(tmp_path, draw_rows(3, 4000), ONE_PAIR)
    front = [policy.expected_flops or 0 for name, policy in plan.policies.items() if name.startswith("front-")]
    assert front == sorted(front)
    assert 3 < len(front) <= MAX_PATH


def test_a_walk_begins_with_more_careful_variants_of_the_fronts_dearest() -> None:
    study = make_study(draw_rows(1, 600), NAMES, FLOPS, ONE_PAIR)
    path, front = study.chosen.path, study.chosen.front
    careful = [point for point in path if point not in front]
    assert 1 <= len(careful) <= 3
    assert list(path[: len(careful)]) == careful
    costs = [point.mean_cost for point in path]
    assert costs == sorted(costs, reverse=True)
    dearest = path[len(careful)]
    for point in careful:
        assert [gate.member for gate in point.gates] == [gate.member for gate in dearest.gates]


# On the machine of these, the member of the fewest FLOPs is the slowest.
SECONDS = (0.005, 0.001, 0.002)
IN_SECONDS = replace(ONE_PAIR, cost=Cost.SECONDS)


def plan_in_seconds(tmp_path: Path, rows: ZooRows, demands: Demands) -> Plan:
    profiles = {name: {1: 2 * seconds, 8: seconds} for name, seconds in zip(NAMES, SECONDS, strict=True)}
    task_path = write_zoo(tmp_path / "zoo" / "animals", rows, seconds=profiles)
    members = read_zoo_members(task_path, NAMES)
    study = make_study(rows, NAMES, FLOPS, demands, seconds=read_seconds(members, demands))
    return draw_plan(study, read_zoo_task(task_path), members, rows)


def test_seconds_choose_otherwise_than_flops(tmp_path: Path) -> None:
    rows = draw_rows(1, 6000)
    in_flops, in_seconds = (
        plan_in_seconds(tmp_path / name, rows, demands)
        for name, demands in (("flops", ONE_PAIR), ("seconds", IN_SECONDS))
    )
    assert (in_flops.cost, in_seconds.cost) == (Cost.FLOPS, Cost.SECONDS)
    assert in_flops.policies["default"].stages[0].member == "small"
    default = in_seconds.policies["default"]
    assert [stage.member for stage in default.stages] == ["middle", "large"]
    assert default.certificate is not None
    assert default.expected_seconds is not None
    assert default.expected_seconds < 0.002
    # Told beside the FLOPs, too, where these are kept small.
    dear = in_flops.policies["default"].expected_seconds
    assert dear is not None
    assert dear > 0.005


def test_expected_seconds_are_those_of_the_exits(tmp_path: Path) -> None:
    plan = plan_in_seconds(tmp_path, draw_rows(2, 2000), replace(IN_SECONDS, cost_batch_size=1))
    assert plan.cost_batch_size == 1
    assert {member.name: member.seconds for member in plan.members}["large"] == {1: 0.004, 8: 0.002}
    seconds = {name: 2 * seconds for name, seconds in zip(NAMES, SECONDS, strict=True)}
    front = []
    for name, policy in plan.policies.items():
        upto = accumulate(seconds[stage.member] for stage in policy.stages)
        assert policy.exit_shares is not None
        expected = sum(share * spent for share, spent in zip(policy.exit_shares, upto, strict=True))
        assert policy.expected_seconds == pytest.approx(expected, rel=1e-6)
        if name.startswith("front-"):
            front.append(policy.expected_seconds or 0)
    assert front == sorted(front)
    assert len(front) > 3


def test_caps_stay_flops_in_a_plan_in_seconds(tmp_path: Path) -> None:
    limits = Limits(max_flops=4_000_000, mean_flops=2_600_000)
    plan = plan_in_seconds(tmp_path, draw_rows(6, 2000), replace(IN_SECONDS, limits=limits))
    assert plan.reference == "middle"
    for policy in plan.policies.values():
        assert policy.worst_case_flops <= 4_000_000
        assert policy.expected_flops is not None
        assert policy.expected_flops <= 2_600_000


def test_of_equally_accurate_members_the_faster_is_the_reference(tmp_path: Path) -> None:
    drawn = draw_rows(8, 400)
    rows = replace(drawn, logits=(drawn.logits[2],) * 3)
    assert plan_in_seconds(tmp_path / "flops", rows, ONE_PAIR).reference == "small"
    assert plan_in_seconds(tmp_path / "seconds", rows, IN_SECONDS).reference == "middle"


def test_a_policy_with_a_member_of_unknown_seconds_has_none(tmp_path: Path) -> None:
    rows = draw_rows(2, 1000)
    task_path = write_zoo(tmp_path / "animals", rows, seconds={"small": {1: 0.001}})
    members = read_zoo_members(task_path, NAMES)
    study = make_study(rows, NAMES, FLOPS, ONE_PAIR, seconds=read_seconds(members, ONE_PAIR))
    plan = draw_plan(study, read_zoo_task(task_path), members, rows)
    for policy in plan.policies.values():
        known = {stage.member for stage in policy.stages} == {"small"}
        assert (policy.expected_seconds is not None) == known


def test_all_nine_pairs_are_tried_and_steps_are_counted() -> None:
    steps = 0

    def advance() -> None:
        nonlocal steps
        steps += 1

    study = make_study(draw_rows(4, 400), NAMES, FLOPS, Demands(), advance)
    assert steps == num_steps(len(NAMES), Demands())
    assert len({trial.rules for trial in study.trials}) == 9
    assert study.chosen.mean_cost == min(trial.mean_cost for trial in study.trials)


def test_half_b_has_no_say_in_temperatures_rules_and_path() -> None:
    rows = draw_rows(5, 3000)
    study = make_study(rows, NAMES, FLOPS, Demands())
    logits = tuple(logits_NK.copy() for logits_NK in rows.logits)
    rng = np.random.default_rng(0)
    for logits_NK in logits:
        logits_NK[study.rows_B] = rng.normal(0, 9, (len(study.rows_B), 4))
    other = make_study(replace(rows, logits=logits), NAMES, FLOPS, Demands())
    assert other.committee.temperatures == study.committee.temperatures
    assert other.reference == study.reference
    assert other.chosen.rules == study.chosen.rules
    assert other.chosen.path == study.chosen.path
    assert other.accepted.main < study.accepted.main


def test_caps_bind_every_policy(tmp_path: Path) -> None:
    limits = Limits(max_flops=4_000_000, mean_flops=1_700_000)
    plan, _ = plan_of(tmp_path, draw_rows(6, 2000), replace(ONE_PAIR, limits=limits))
    assert plan.reference == "small"
    for policy in plan.policies.values():
        assert policy.worst_case_flops <= 4_000_000
        assert policy.expected_flops is not None
        assert policy.expected_flops <= 1_700_000
    assert "large" not in [member.name for member in plan.members]


@pytest.mark.parametrize("field", ["max_flops", "mean_flops"])
def test_cap_under_the_cheapest_member_names_it(field: str) -> None:
    demands = replace(ONE_PAIR, limits=Limits(**{field: 999_999}))
    with pytest.raises(UnreachableError, match=rf"{field}: got 1M \(999999\); must be at least 1M .*'small'"):
        make_study(draw_rows(7, 100), NAMES, FLOPS, demands)


@pytest.mark.parametrize("mean_flops", [None, 1_500_000])
def test_accuracy_out_of_reach_names_what_can_be_had(tmp_path: Path, mean_flops: int | None) -> None:
    rows = draw_rows(9, 400)
    demands = replace(ONE_PAIR, limits=Limits(mean_flops=mean_flops))
    nearest = r"nearest that can be promised at level 0\.95 on 200 rows is (0\.\d+), by \S+ \(mean_probs, max_prob\)"
    with pytest.raises(UnreachableError, match=nearest) as refusal:
        plan_of(tmp_path / "1", rows, replace(demands, min_accuracy=0.9999))
    found = re.search(nearest, str(refusal.value))
    assert found is not None
    reachable = float(found[1])
    plan, _ = plan_of(tmp_path / "2", rows, replace(demands, min_accuracy=reachable))
    assert plan.policies["default"].certificate is not None
    assert plan.policies["default"].certificate.bound == reachable
    with pytest.raises(UnreachableError, match=f"got {reachable + 1e-4}"):
        plan_of(tmp_path / "3", rows, replace(demands, min_accuracy=reachable + 1e-4))


def test_accurate_is_the_reference_where_company_only_harms(tmp_path: Path) -> None:
    rows = draw_rows(15, 3000, strengths=(-2.0, -2.0, 4.0))
    plan, study = plan_of(tmp_path, rows, replace(ONE_PAIR, combine=Combine.MEAN_LOGITS))
    assert study.chosen.front[-1].gates == (Gate(member=2),)
    assert [stage.member for stage in plan.policies["accurate"].stages] == ["large"]


def test_min_accuracy_promises_it(tmp_path: Path) -> None:
    plan, _ = plan_of(tmp_path, draw_rows(10, 4000), replace(ONE_PAIR, min_accuracy=0.88))
    certificate = plan.policies["default"].certificate
    assert certificate is not None
    assert (certificate.promise, certificate.bound, certificate.reference) == (Promise.MIN_ACCURACY, 0.88, None)
    assert certificate.lower_bound >= 0.88
    fast = plan.policies["fast"].certificate
    assert fast is not None
    assert fast.bound == pytest.approx(0.87)


def test_too_few_rows_leave_the_reference_alone(tmp_path: Path) -> None:
    plan, _ = plan_of(tmp_path, draw_rows(11, 30), ONE_PAIR)
    default = plan.policies["default"]
    assert [stage.member for stage in default.stages] == [plan.reference]
    assert default.certificate is not None
    assert default.certificate.lower_bound == 0


def test_one_member_alone_is_a_plan(tmp_path: Path) -> None:
    rows = draw_rows(12, 60, strengths=(3.0,))
    task_path = write_zoo(tmp_path / "animals", rows, ("only",), (500,))
    study = make_study(rows, ("only",), (500,), Demands())
    plan = draw_plan(study, read_zoo_task(task_path), read_zoo_members(task_path, None), rows)
    assert set(plan.policies) == {"default", "fast", "accurate", "reference"}
    assert plan.policies["accurate"].worst_case_flops == 500


def test_rows_without_an_answer_do_no_harm(tmp_path: Path) -> None:
    rows = draw_rows(13, 1000)
    for logits_NK in rows.logits:
        logits_NK[np.random.default_rng(1).random(1000) < 0.05] = np.nan
    plan, _ = plan_of(tmp_path, rows, Demands())
    assert plan.policies["default"].accuracy is not None
    assert plan.policies["default"].accuracy > 0.7


def test_manual_plan_is_measured_on_all_rows(tmp_path: Path) -> None:
    rows = draw_rows(14, 500)
    task_path = write_zoo(tmp_path / "animals", rows)
    members = read_zoo_members(task_path, ["small", "large"])
    own = ZooRows(
        logits=(rows.logits[0], rows.logits[2]),
        labels_N=rows.labels_N,
        sample_ids_N=rows.sample_ids_N,
        num_repeated=0,
    )
    rules = Rules(combine=Combine.MEAN_LOGITS, confidence=Confidence.MARGIN)
    plan = draw_manual_plan(task=read_zoo_task(task_path), members=members, thresholds=[0.8], rules=rules, rows=own)
    committee = Committee(
        names=("small", "large"),
        flops=(FLOPS[0], FLOPS[2]),
        temperatures=tuple(member.temperature for member in plan.members),
        logits=own.logits,
        labels_N=own.labels_N,
    )
    outcome = evaluate_policy(committee, rules, (Gate(member=0, threshold=0.8), Gate(member=1)))
    assert list(plan.policies) == ["default"]
    assert plan.policies["default"].accuracy == outcome.accuracy
    assert plan.policies["default"].certificate is None
    assert plan.calibration is not None
    assert (plan.calibration.n, plan.calibration.n_test) == (500, 0)


def test_fast_promises_no_less_than_nothing() -> None:
    assert Demands(min_accuracy=0.004).fast_bound == 0
    assert Demands(max_regret=0.999).fast_bound == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_regret": -0.1}, r"max_regret: got -0\.1; must be at least 0 and under 1"),
        ({"max_regret": float("nan")}, r"max_regret: got nan"),
        ({"min_accuracy": 93.0}, r"min_accuracy: got 93\.0; must be above 0 and at most 1"),
        ({"level": 1.0}, r"level: got 1\.0; must be above 0 and under 1"),
    ],
)
def test_demands_out_of_range_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Demands(**changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Draw:
    """One plan from drawn calibration rows, judged on the population that they were drawn from."""

    study: Study
    regrets: list[float]
    accuracies: list[float]

    def is_broken(self, accepted: int, bound: float) -> bool:
        """Whether any promise along the path so far is false."""
        if self.study.demands.promise is Promise.MAX_REGRET:
            return any(regret > bound for regret in self.regrets[:accepted])
        return any(accuracy < bound for accuracy in self.accuracies[:accepted])


def simulate(strengths: tuple[float, ...], rows: int, repeats: int, demands: Demands) -> Iterator[Draw]:
    logits, labels_N = draw_logits(np.random.default_rng(99), 8_000, strengths)
    for repeat in range(repeats):
        drawn = np.random.default_rng(repeat).integers(0, len(labels_N), rows)
        sample = ZooRows(
            logits=tuple(logits_NK[drawn] for logits_NK in logits),
            labels_N=labels_N[drawn],
            sample_ids_N=np.arange(rows),
            num_repeated=0,
        )
        study = make_study(sample, NAMES, FLOPS, replace(demands, seed=repeat))
        everyone, rules = replace(study.committee, logits=logits, labels_N=labels_N), study.chosen.rules
        walked = study.chosen.path[: max(study.accepted.fast, study.chosen.accepted)]
        accuracies = [evaluate_policy(everyone, rules, point.gates).accuracy for point in walked]
        reference = evaluate_policy(everyone, rules, (Gate(member=study.reference),)).accuracy
        yield Draw(study, [reference - accuracy for accuracy in accuracies], accuracies)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "repeats"), [(500, 100), (2000, 40)])
@pytest.mark.parametrize("min_accuracy", [None, 0.905])
def test_promises_fail_at_most_as_often_as_they_may(rows: int, repeats: int, min_accuracy: float | None) -> None:
    level = 0.8
    demands = replace(ONE_PAIR, level=level, min_accuracy=min_accuracy, limits=Limits(max_members=2))
    draws = list(simulate((3.4, 3.6, 3.8), rows, repeats, demands))
    may_fail = stats.binom(repeats, 1 - level).ppf(0.999)
    assert sum(draw.study.accepted.main > 0 for draw in draws) > repeats / 6
    assert sum(draw.is_broken(draw.study.accepted.main, demands.bound) for draw in draws) <= may_fail
    assert sum(draw.is_broken(draw.study.accepted.fast, demands.fast_bound) for draw in draws) <= may_fail


@pytest.mark.slow
def test_promises_hold_where_half_a_misleads() -> None:
    # Members that are all alike: the best policy on few rows is best by luck, and only half B can tell.
    level, repeats = 0.8, 80
    demands = replace(ONE_PAIR, combine=Combine.LAST, level=level, min_accuracy=0.56, limits=Limits(max_members=3))
    may_fail = stats.binom(repeats, 1 - level).ppf(0.999)
    broken = broken_on_A = 0
    for draw in simulate((1.0, 1.0, 1.0), 200, repeats, demands):
        broken += draw.is_broken(draw.study.accepted.main, demands.bound)
        broken_on_A += draw.is_broken(draw.study.chosen.accepted, demands.bound)
    assert broken <= may_fail < broken_on_A

"""From a study to a plan: the policies by name, with their numbers and certificates; and plans made by hand."""
# Shapes: N rows of half B.

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cascade_serve.core.cost import cumulative_flops
from cascade_serve.core.interval import wilson_interval
from cascade_serve.core.plan import (
    DEFAULT_POLICY,
    Calibration,
    Certificate,
    Fingerprint,
    Member,
    Plan,
    Policy,
    Promise,
    Stage,
    Task,
)
from cascade_serve.errors import UnreachableError
from cascade_serve.planner.committee import Gate, Gates, Outcome, Rules, evaluate_policy
from cascade_serve.planner.planning import Study, describe_gates, make_committee
from cascade_serve.planner.walk import make_test
from cascade_serve.planner.words import FRONT_PREFIX
from cascade_serve.planner.zoo_costs import known_seconds
from cascade_serve.planner.zoo_rows import ZooRows, plan_member, shared_engine
from model_zoo.store import ZooMember

FAST_POLICY = "fast"
ACCURATE_POLICY = "accurate"
REFERENCE_POLICY = "reference"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Point:
    """A policy before it has a name.

    Attributes:
        gates: its stages.
        searched: its outcome on half A, by which policies are chosen.
        outcome: on half B, which is reported.
        bound: what it promises; None promises nothing.
    """

    gates: Gates
    searched: Outcome
    outcome: Outcome
    bound: float | None


class _Namer:
    """Draws the policies of one study."""

    def __init__(self, study: Study, data_sha256: str) -> None:
        self._study = study
        self._data_sha256 = data_sha256
        self._reference = self._reference_point()
        self._walked = self._walked_points()
        # Half B may choose among the accepted ones, since all of their promises hold together.
        self._path = tuple(point for point in self._walked if self._is_within_cap(point))

    def policies(self) -> dict[str, Policy]:
        """Give all policies by name."""
        demands = self._study.demands
        path = sorted(self._path, key=lambda point: point.outcome.mean_cost(demands.cost))
        named = {
            DEFAULT_POLICY: self._cheapest(demands.bound),
            FAST_POLICY: self._cheapest(demands.fast_bound),
            ACCURATE_POLICY: max((*self._path, self._reference), key=lambda point: point.searched.accuracy),
            REFERENCE_POLICY: self._reference,
        }
        named |= {f"{FRONT_PREFIX}{position:02d}": point for position, point in enumerate(path)}
        return {name: self._policy(name, point) for name, point in named.items()}

    def _reference_point(self) -> _Point:
        """The reference promises no regret against itself; what accuracy it has would have to be tested."""
        study = self._study
        gates = (Gate(member=study.reference),)
        bound = study.demands.bound if study.demands.promise is Promise.MAX_REGRET else None
        return self._point(gates, study.evaluate_all(gates), bound)

    def _walked_points(self) -> tuple[_Point, ...]:
        """Give the path as it was walked, from dear to cheap."""
        pairs = zip(self._study.chosen.path, self._study.outcomes, strict=True)
        return tuple(
            self._point(found.gates, outcome, self._bound(position)) for position, (found, outcome) in enumerate(pairs)
        )

    def _point(self, gates: Gates, outcome: Outcome, bound: float | None) -> _Point:
        study = self._study
        return _Point(gates=gates, searched=outcome.rows(study.rows_A), outcome=outcome.rows(study.rows_B), bound=bound)

    def _is_within_cap(self, point: _Point) -> bool:
        cap = self._study.demands.limits.mean_flops
        return cap is None or point.outcome.expected_flops <= cap

    def _bound(self, position: int) -> float | None:
        """Say what the walks allow a point of the path to promise."""
        if position < self._study.accepted.main:
            return self._study.demands.bound
        return self._study.demands.fast_bound if position < self._study.accepted.fast else None

    def _cheapest(self, bound: float) -> _Point:
        """Find the cheapest point that promises at least as much as ``bound``."""
        demands = self._study.demands
        loosest = -1 if demands.promise is Promise.MAX_REGRET else 1
        options = [
            point
            for point in (*self._path, self._reference)
            if point.bound is not None and loosest * point.bound >= loosest * bound
        ]
        if not options:
            raise UnreachableError(self._nearest_promise())
        return min(options, key=lambda point: point.searched.mean_cost(demands.cost))

    def _nearest_promise(self) -> str:
        """Say what could have been promised: a walk must accept all that is dearer before the first within the cap."""
        study = self._study
        first = next((place for place, point in enumerate(self._walked) if self._is_within_cap(point)), 0)
        lower_bound = min(self._lower_bound(point) for point in self._walked[: first + 1])
        point, rules = self._walked[first], study.chosen.rules
        return (
            f"min_accuracy: got {study.demands.min_accuracy}; the nearest that can be promised at level"
            f" {study.demands.level:.10g} on {len(study.rows_B)} rows is {math.floor(1e4 * lower_bound) / 1e4:.4f}, by"
            f" {describe_gates(study.committee.names, point.gates)} ({rules.combine}, {rules.confidence}), which"
            f" measures {point.outcome.accuracy:.4f}; more calibration images narrow the gap"
        )

    def _lower_bound(self, point: _Point) -> float:
        bound = 0.0 if point.bound is None else point.bound
        return make_test(self._study.demands, bound, self._reference.outcome.correct_N).lower_bound(
            point.outcome.correct_N
        )

    def _policy(self, name: str, point: _Point) -> Policy:
        return measured_policy(name, self._study.committee.names, point.gates, point.outcome, self._certificate(point))

    def _certificate(self, point: _Point) -> Certificate | None:
        if point.bound is None:
            return None
        study = self._study
        is_regret = study.demands.promise is Promise.MAX_REGRET
        is_reference = point.gates == self._reference.gates
        lower_bound = 0.0 if is_regret and is_reference else self._lower_bound(point)
        return Certificate(
            promise=study.demands.promise,
            bound=point.bound,
            level=study.demands.level,
            # The walk's own test has said that the promise holds; a bound found by bisection may be a hair under it.
            lower_bound=max(lower_bound, -point.bound if is_regret else point.bound),
            n=len(study.rows_B),
            reference=study.committee.names[study.reference] if is_regret else None,
            data_sha256=self._data_sha256,
        )


def measured_policy(
    name: str, names: Sequence[str], gates: Gates, outcome: Outcome, certificate: Certificate | None = None
) -> Policy:
    """Give a policy with its numbers.

    Args:
        name: the policy's.
        names: of the committee's members.
        gates: its stages.
        outcome: on the rows that it is measured on.
        certificate: its promise.
    """
    return Policy(
        name=name,
        stages=_stages(names, gates),
        worst_case_flops=outcome.worst_case_flops,
        expected_flops=outcome.expected_flops,
        expected_seconds=outcome.expected_seconds,
        accuracy=outcome.accuracy,
        accuracy_interval=wilson_interval(int(outcome.correct_N.sum()), len(outcome.correct_N)),
        exit_shares=outcome.exit_shares,
        certificate=certificate,
    )


def _stages(names: Sequence[str], gates: Gates) -> tuple[Stage, ...]:
    return tuple(Stage(member=names[gate.member], threshold=gate.threshold) for gate in gates)


def draw_plan(study: Study, task: Task, members: Sequence[ZooMember], rows: ZooRows) -> Plan:
    """Draw a plan from a study.

    Args:
        study: what planning found.
        task: image size and classes.
        members: in the order of the study's committee.
        rows: the study's.

    Returns:
        the plan, with those members that some policy uses.

    Raises:
        UnreachableError: ``min_accuracy`` can't be promised.
    """
    policies = _Namer(study, rows.fingerprint(study.rows_B)).policies()
    used = _used_members(policies.values(), members, study.committee.temperatures)
    return Plan(
        task=task,
        members=used,
        combine=study.chosen.rules.combine,
        confidence=study.chosen.rules.confidence,
        policies=policies,
        reference=study.committee.names[study.reference],
        cost=study.demands.cost,
        cost_batch_size=study.demands.cost_batch_size,
        calibration=_calibration(rows, members, used, n_search=len(study.rows_A), seed=study.demands.seed),
    )


def draw_manual_plan(
    *, task: Task, members: Sequence[ZooMember], thresholds: Sequence[float], rules: Rules, rows: ZooRows | None
) -> Plan:
    """Make a plan whose ``default`` is what the user says, and which has no other policy.

    Args:
        task: image size and classes.
        members: one a stage, in order.
        thresholds: one a stage but the last.
        rules: how they speak together.
        rows: to fit temperatures and measure on, all of them; None sets temperatures to 1 and leaves numbers null.

    Raises:
        PlanError: a threshold is not between 0 and 1.
    """
    names = [member.name for member in members]
    gates = tuple(Gate(member=position, threshold=threshold) for position, threshold in enumerate((*thresholds, None)))
    if rows is None:
        worst = cumulative_flops([member.card.cost.flops for member in members])[-1]
        policy = Policy(name=DEFAULT_POLICY, stages=_stages(names, gates), worst_case_flops=worst)
        temperatures: Sequence[float] = (1.0,) * len(members)
    else:
        flops = [member.card.cost.flops for member in members]
        seconds = known_seconds(members)
        committee = make_committee(rows, names, flops, np.arange(len(rows.labels_N)), seconds=seconds)
        policy = measured_policy(DEFAULT_POLICY, names, gates, evaluate_policy(committee, rules, gates))
        temperatures = committee.temperatures
    used = _used_members([policy], members, temperatures)
    return Plan(
        task=task,
        members=used,
        combine=rules.combine,
        confidence=rules.confidence,
        policies={DEFAULT_POLICY: policy},
        calibration=None if rows is None else _calibration(rows, members, used, n_search=len(rows.labels_N), seed=0),
    )


def _used_members(
    policies: Iterable[Policy], members: Sequence[ZooMember], temperatures: Sequence[float]
) -> tuple[Member, ...]:
    used = {stage.member for policy in policies for stage in policy.stages}
    return tuple(
        plan_member(member, temperature)
        for member, temperature in zip(members, temperatures, strict=True)
        if member.name in used
    )


def _calibration(
    rows: ZooRows, members: Sequence[ZooMember], used: Sequence[Member], *, n_search: int, seed: int
) -> Calibration:
    return Calibration(
        n=len(rows.labels_N),
        n_search=n_search,
        n_test=len(rows.labels_N) - n_search,
        data_sha256=rows.fingerprint(),
        seed=seed,
        fingerprint=Fingerprint.of(shared_engine(members), used),
    )

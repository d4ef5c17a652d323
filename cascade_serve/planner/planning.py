"""The planner's main road: temperatures, search, walk and policies, from a zoo's rows to a plan."""
# Shapes: N rows.

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from cascade_serve.core.arrays import IntArray
from cascade_serve.core.cost import format_flops
from cascade_serve.core.plan import Promise
from cascade_serve.errors import UnreachableError
from cascade_serve.planner.calibration import fit_temperature, split_halves
from cascade_serve.planner.caution import more_careful
from cascade_serve.planner.certificate import count_accepted
from cascade_serve.planner.committee import (
    ALL_RULES,
    Committee,
    Gate,
    Gates,
    Outcome,
    Rules,
    evaluate_policy,
    whole_ticks,
)
from cascade_serve.planner.demands import Demands
from cascade_serve.planner.running import Advance, largest_subset, running_predictions
from cascade_serve.planner.search import Candidate, Limits, Search
from cascade_serve.planner.walk import Accepted, make_test, thin, walk
from cascade_serve.planner.words import stage_text
from cascade_serve.planner.zoo_rows import ZooRows


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One pair of rules, tried on half A.

    Attributes:
        rules: the pair.
        front: what the search found, from cheap to dear.
        path: what a walk goes along, from dear to cheap: points of the front, and before them more careful variants of
            its dearest.
        accepted: how far the walk would come if half A were half B.
        gates: what ``default`` would be then.
        mean_cost: of that, on half A, per row: FLOPs, or seconds; infinite where nothing keeps the promise.
        accuracy: its share of right rows on half A.
    """

    rules: Rules
    front: tuple[Candidate, ...]
    path: tuple[Candidate, ...]
    accepted: int
    gates: Gates
    mean_cost: float
    accuracy: float

    @property
    def reaches_promise(self) -> bool:
        """Whether anything keeps the promise of ``default`` on half A."""
        return math.isfinite(self.mean_cost)


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """All that planning found out; a plan is drawn from it, and the report tells it.

    Attributes:
        demands: what was asked.
        committee: all members over all rows, with their temperatures from half A.
        rows_A, rows_B: int64 indices of the halves.
        reference: index of half A's most accurate member within the limits.
        trials: every pair of rules that was tried.
        chosen: the trial whose pair was taken.
        outcomes: what each point of the chosen path did with all rows.
        accepted: how far the walk on half B came.
    """

    demands: Demands
    committee: Committee
    rows_A: IntArray
    rows_B: IntArray
    reference: int
    trials: tuple[Trial, ...]
    chosen: Trial
    outcomes: tuple[Outcome, ...]
    accepted: Accepted

    def evaluate(self, gates: Gates) -> Outcome:
        """Say what a policy did with half B's rows."""
        return self.evaluate_all(gates).rows(self.rows_B)

    def evaluate_all(self, gates: Gates) -> Outcome:
        """Say what a policy did with all rows."""
        return evaluate_policy(self.committee, self.chosen.rules, gates)


def make_study(
    rows: ZooRows,
    names: Sequence[str],
    flops: Sequence[int],
    demands: Demands,
    advance: Advance = lambda: None,
    *,
    seconds: Sequence[float] = (),
) -> Study:
    """Plan.

    Args:
        rows: what the members said.
        names: of the members.
        flops: of the members, per image.
        demands: what is asked.
        advance: called :func:`num_steps` times along the way.
        seconds: of the members, per image; NaN where not known, empty where none is. Each must be known where the
            demands are for seconds.

    Returns:
        what was found.

    Raises:
        UnreachableError: a cap is under the cheapest member.
    """
    _check_caps(names, flops, demands.limits)
    rows_A, rows_B = split_halves(rows.labels_N, demands.seed)
    committee = make_committee(rows, names, flops, rows_A, seconds=seconds)
    half_A = committee.rows(rows_A)
    reference = _most_accurate(half_A, demands)
    trials = _try_all(half_A, reference, demands, advance)
    chosen = min(trials, key=lambda trial: (trial.mean_cost, -trial.accuracy))
    outcomes = tuple(evaluate_policy(committee, chosen.rules, point.gates) for point in chosen.path)
    reference_N = evaluate_policy(committee, chosen.rules, (Gate(member=reference),)).correct_N[rows_B]
    accepted = walk(demands, [outcome.correct_N[rows_B] for outcome in outcomes], reference_N)
    return Study(
        demands=demands,
        committee=committee,
        rows_A=rows_A,
        rows_B=rows_B,
        reference=reference,
        trials=trials,
        chosen=chosen,
        outcomes=outcomes,
        accepted=accepted,
    )


def make_committee(
    rows: ZooRows, names: Sequence[str], flops: Sequence[int], fit_on: IntArray, *, seconds: Sequence[float] = ()
) -> Committee:
    """Fit each member's temperature on some rows (int64 indices), and give the committee over all rows."""
    labels_N = rows.labels_N[fit_on]
    return Committee(
        names=tuple(names),
        flops=tuple(flops),
        temperatures=tuple(fit_temperature(logits_NK[fit_on], labels_N) for logits_NK in rows.logits),
        logits=rows.logits,
        labels_N=rows.labels_N,
        seconds=tuple(whole_ticks(taken) for taken in seconds),
    )


def num_steps(num_members: int, demands: Demands) -> int:
    """Count the steps of :func:`make_study`, for its progress."""
    steps = 0
    for combine, pairs in groupby(demands.rules, key=lambda rules: rules.combine):
        largest = largest_subset(combine, num_members, demands.limits.max_members)
        steps += sum(math.comb(num_members, size) for size in range(1, largest + 1)) + num_members * len(list(pairs))
    return steps


def _check_caps(names: Sequence[str], flops: Sequence[int], limits: Limits) -> None:
    cheapest, name = min(zip(flops, names, strict=True))
    for field, cap in (("max_flops", limits.max_flops), ("mean_flops", limits.mean_flops)):
        if cap is not None and cap < cheapest:
            raise UnreachableError(
                f"{field}: got {format_flops(cap)} ({cap}); must be at least {format_flops(cheapest)} ({cheapest}),"
                f" the cost of the cheapest member, {name!r}"
            )


def _most_accurate(half_A: Committee, demands: Demands) -> int:
    """Find the most accurate member that may stand alone; of equals, the cheapest."""
    limits, costs = demands.limits, half_A.costs(demands.cost)
    caps = [cap for cap in (limits.max_flops, limits.mean_flops) if cap is not None]
    allowed = [member for member, flops in enumerate(half_A.flops) if all(flops <= cap for cap in caps)]
    rules = ALL_RULES[0]  # What one member predicts does not depend on them.
    return max(
        allowed,
        key=lambda member: (evaluate_policy(half_A, rules, (Gate(member=member),)).accuracy, -costs[member]),
    )


def _try_all(half_A: Committee, reference: int, demands: Demands, advance: Advance) -> tuple[Trial, ...]:
    """Search with every pair of rules, and walk on half A itself, so that the choice of a pair does not see half B."""
    trials = []
    max_members = demands.limits.max_members
    for combine, pairs in groupby(demands.rules, key=lambda rules: rules.combine):
        by_function = {rules.confidence: rules for rules in pairs}
        running = running_predictions(half_A, combine, tuple(by_function), max_members, advance)
        for function, rules in by_function.items():
            front = Search(half_A, running[function], demands.limits, demands.cost).run(advance)
            trials.append(_try_one(half_A, reference, demands, rules, tuple(front)))
    return tuple(trials)


def _try_one(half_A: Committee, reference: int, demands: Demands, rules: Rules, front: tuple[Candidate, ...]) -> Trial:
    is_regret = demands.promise is Promise.MAX_REGRET
    alone = (Gate(member=reference),)
    # The reference's regret against itself is zero: nothing to test, so it takes no place on the path.
    path = thin([point for point in front if not (is_regret and point.gates == alone)])
    if is_regret and path:
        careful = more_careful(half_A, rules, path[0], reference=reference, limits=demands.limits, cost=demands.cost)
        path = (*careful, *path)
    reference_N = evaluate_policy(half_A, rules, alone).correct_N
    correct = (evaluate_policy(half_A, rules, point.gates).correct_N for point in path)
    accepted = count_accepted(correct, make_test(demands, demands.bound, reference_N))
    options = [(point.mean_cost, -point.correct / half_A.num_rows, point.gates) for point in path[:accepted]]
    if is_regret:
        options.append((half_A.costs(demands.cost)[reference], -float(reference_N.mean()), alone))
    dearest = path[0] if path else front[-1]
    cost, accuracy, gates = min(
        options, key=lambda option: option[:2], default=(math.inf, -dearest.correct / half_A.num_rows, dearest.gates)
    )
    return Trial(
        rules=rules, front=front, path=path, accepted=accepted, gates=gates, mean_cost=cost, accuracy=-accuracy
    )


def describe_gates(names: Sequence[str], gates: Gates) -> str:
    """Write stages as ``--stages`` takes them, such as ``resnet20:0.9,resnet56``."""
    return ",".join(stage_text(names[gate.member], gate.threshold) for gate in gates)

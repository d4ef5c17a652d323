"""The vectorised search and evaluation against loops over rows that ask the engine's own rules one row at a time."""
# Shapes: N rows, K classes, S stages.

from dataclasses import dataclass
from itertools import accumulate, permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_serve.core.arrays import FloatArray
from cascade_serve.core.combine import Combine, combine_stages, is_usable, member_score
from cascade_serve.core.confidence import confidence
from cascade_serve.core.cost import Cost
from cascade_serve.core.gate import should_exit
from cascade_serve.planner.committee import ALL_RULES, Committee, Gate, Gates, Rules, evaluate_policy, whole_ticks
from cascade_serve.planner.running import rate, running_predictions
from cascade_serve.planner.search import Candidate, Limits, Search


@dataclass(frozen=True)
class NaiveRow:
    correct: bool
    stage: int


def naive_row(committee: Committee, rules: Rules, gates: Gates, row: int) -> NaiveRow:
    """Walk one row through the stages."""
    scores: list[FloatArray] = []
    usable: list[bool] = []
    correct = False
    for stage, gate in enumerate(gates):
        logits_1K = committee.logits[gate.member][row : row + 1]
        usable.append(bool(is_usable(logits_1K)[0]))
        safe_1K = logits_1K if usable[-1] else np.zeros_like(logits_1K)
        scores.append(member_score(rules.combine, safe_1K, committee.temperatures[gate.member])[0])
        running_1K = combine_stages(rules.combine, np.stack(scores)[None], np.array([usable]))
        correct = any(usable) and int(running_1K[0].argmax()) == committee.labels_N[row]
        if gate.threshold is None:
            return NaiveRow(correct, stage)
        sure_1 = confidence(rules.confidence, running_1K)
        if usable[-1] and should_exit(sure_1, np.array([gate.threshold], dtype=np.float32))[0]:
            return NaiveRow(correct, stage)
    raise AssertionError("the last stage has no threshold")


def naive_policy(committee: Committee, rules: Rules, gates: Gates) -> tuple[int, dict[Cost, float]]:
    """Hits and total costs."""
    rows = [naive_row(committee, rules, gates, row) for row in range(committee.num_rows)]
    spent = {}
    for cost in Cost:
        costs = committee.flops if cost is Cost.FLOPS else committee.seconds
        upto = list(accumulate(float(costs[gate.member]) for gate in gates))
        spent[cost] = sum(upto[row.stage] for row in rows)
    return sum(row.correct for row in rows), spent


def naive_front(committee: Committee, rules: Rules, limits: Limits, cost: Cost = Cost.FLOPS) -> list[tuple[int, float]]:
    """Enumerate every order and every setting of the same grids; keep what nothing beats."""
    found = []
    members = range(len(committee.names))
    for size in range(1, min(limits.max_members, len(committee.names)) + 1):
        for order in permutations(members, size):
            if limits.max_flops is not None and sum(committee.flops[member] for member in order) > limits.max_flops:
                continue
            grids = [naive_grid(committee, rules, order[: end + 1]) for end in range(size - 1)]
            for thresholds in product(*grids):
                gated = tuple(Gate(member=m, threshold=t) for m, t in zip(order[:-1], thresholds, strict=True))
                hits, spent = naive_policy(committee, rules, (*gated, Gate(member=order[-1])))
                if limits.mean_flops is None or spent[Cost.FLOPS] <= limits.mean_flops * committee.num_rows:
                    found.append((hits, spent[cost]))
    best: list[tuple[int, float]] = []
    for hits, total in sorted(set(found), key=lambda pair: (pair[1], -pair[0])):
        if not best or hits > best[-1][0]:
            best.append((hits, total))
    return best


def naive_grid(committee: Committee, rules: Rules, prefix: tuple[int, ...]) -> list[float]:
    spoken = prefix[-1:] if rules.combine is Combine.LAST else sorted(prefix)
    scored = [committee.score(member, rules.combine) for member in spoken]
    scores_NSK = np.stack([score_NK for score_NK, _ in scored], axis=1)
    usable_NS = np.stack([usable_N for _, usable_N in scored], axis=1)
    running_NK = combine_stages(rules.combine, scores_NSK, usable_NS)
    return [float(threshold) for threshold in rate(confidence(rules.confidence, running_NK)).thresholds_T]


@st.composite
def committees(draw: st.DrawFn, *, max_members: int = 3, is_dyadic: bool = True) -> Committee:
    members = draw(st.integers(1, max_members))
    rows, classes = draw(st.integers(1, 10)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    nan_share = draw(st.sampled_from([0.0, 0.3]))
    logits = []
    for _ in range(members):
        normal_NK = rng.normal(0, 3, (rows, classes))
        # Quarters add up exactly in any order, so that sets and orders of members round alike.
        logits_NK = (np.round(normal_NK * 4) / 4 if is_dyadic else normal_NK).astype(np.float32)
        logits_NK[rng.random(rows) < nan_share, 0] = np.nan
        logits.append(logits_NK)
    return Committee(
        names=tuple(f"m{member}" for member in range(members)),
        flops=tuple(int(cost) for cost in rng.integers(1, 100, members)),
        temperatures=(1.0,) * members if is_dyadic else tuple(rng.uniform(0.5, 3, members)),
        logits=tuple(logits),
        labels_N=rng.integers(0, classes, rows),
        # Two of them add up to a third, so that ties occur, which sums that round would miss.
        seconds=tuple(whole_ticks(float(seconds)) for seconds in rng.choice([1.1e-3, 0.7e-3, 2.3e-6, 0.4e-3], members)),
    )


def search(committee: Committee, rules: Rules, limits: Limits, cost: Cost = Cost.FLOPS) -> list[Candidate]:
    running = running_predictions(
        committee, rules.combine, (rules.confidence,), limits.max_members, advance=lambda: None
    )
    return Search(committee, running[rules.confidence], limits, cost).run(advance=lambda: None)


@settings(max_examples=60, deadline=None)
@given(committee=committees(is_dyadic=False, max_members=4), rules=st.sampled_from(ALL_RULES), data=st.data())
def test_evaluation_is_the_loop_over_rows(committee: Committee, rules: Rules, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(committee.names))))
    order = order[: data.draw(st.integers(1, len(order)))]
    thresholds = [data.draw(st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0])) for _ in order[:-1]]
    gates = (
        *(Gate(member=m, threshold=t) for m, t in zip(order[:-1], thresholds, strict=True)),
        Gate(member=order[-1]),
    )
    outcome = evaluate_policy(committee, rules, gates)
    naive = [naive_row(committee, rules, gates, row) for row in range(committee.num_rows)]
    assert outcome.correct_N.tolist() == [row.correct for row in naive]
    assert outcome.exit_stage_N.tolist() == [row.stage for row in naive]
    assert sum(outcome.exit_shares) == pytest.approx(1)
    _, spent = naive_policy(committee, rules, gates)
    assert outcome.expected_flops * committee.num_rows == pytest.approx(spent[Cost.FLOPS])
    assert outcome.worst_case_flops == sum(committee.flops[member] for member in order)
    assert outcome.expected_seconds is not None
    assert outcome.expected_seconds * committee.num_rows == pytest.approx(spent[Cost.SECONDS])


@settings(max_examples=150, deadline=None)
@given(
    committee=committees(),
    rules=st.sampled_from(ALL_RULES),
    max_members=st.integers(1, 3),
    caps=st.tuples(st.sampled_from([None, 80, 150]), st.sampled_from([None, 60, 90])),
    cost=st.sampled_from(Cost),
)
def test_front_is_that_of_all_policies(
    committee: Committee, rules: Rules, max_members: int, caps: tuple[int | None, int | None], cost: Cost
) -> None:
    # Sums of two floats are exact in either order; of three only where they are quarters.
    largest = min(max_members, 2) if rules.combine is Combine.MEAN_PROBS else max_members
    limits = Limits(max_members=largest, max_flops=caps[0], mean_flops=caps[1])
    found = search(committee, rules, limits, cost)
    expected = naive_front(committee, rules, limits, cost)
    assert [point.correct for point in found] == [hits for hits, _ in expected]
    assert [point.mean_cost for point in found] == [total / committee.num_rows for _, total in expected]
    for point in found:
        hits, spent = naive_policy(committee, rules, point.gates)
        assert hits == point.correct
        # Exactly, as sums of whole FLOPs and of whole ticks do not round: equally dear policies are seen to be.
        assert spent[cost] / committee.num_rows == point.mean_cost


def test_four_stages_and_all_rules_agree_with_the_exact_evaluation() -> None:
    rng = np.random.default_rng(5)
    rows, classes, members = 3000, 5, 5
    labels_N = rng.integers(0, classes, rows)
    logits = []
    for member in range(members):
        logits_NK = rng.normal(0, 1, (rows, classes)).astype(np.float32)
        logits_NK[np.arange(rows), labels_N] += np.float32(1 + 0.3 * member) + rng.normal(0, 1, rows).astype(np.float32)
        logits_NK[rng.random(rows) < 0.01] = np.nan
        logits.append(logits_NK)
    committee = Committee(
        names=tuple("abcde"),
        flops=(10, 20, 30, 40, 50),
        temperatures=(0.5, 0.6, 0.7, 0.8, 0.9),
        logits=tuple(logits),
        labels_N=labels_N,
    )
    longest = 0
    for rules in ALL_RULES:
        for point in search(committee, rules, Limits()):
            outcome = evaluate_policy(committee, rules, point.gates)
            longest = max(longest, len(point.gates))
            # Sets are summed in another order than stages, which may move the one row that lies on a threshold.
            assert abs(int(outcome.correct_N.sum()) - point.correct) <= 2
            assert outcome.expected_flops == pytest.approx(point.mean_cost, abs=150 / rows)
    assert longest == 4


def test_grid_has_distinct_thresholds_and_ends_with_one() -> None:
    grid = rate(np.linspace(0, 0.9, 1000, dtype=np.float32))
    assert len(grid.thresholds_T) == 16
    assert grid.thresholds_T[-1] == 1
    assert rate(np.ones(50, dtype=np.float32)).thresholds_T.tolist() == [1.0]
    all_unknown = rate(np.full(50, np.nan, dtype=np.float32))
    assert all_unknown.thresholds_T.tolist() == [1.0]
    assert all_unknown.codes_N.tolist() == [0] * 50


def test_code_counts_ties_as_exits() -> None:
    sureness = rate(np.array([0.25, 0.5, 0.75, 1.0], dtype=np.float32))
    for confidence_of_row, code in zip([0.25, 0.5, 0.75, 1.0], sureness.codes_N, strict=True):
        assert code == int((sureness.thresholds_T <= np.float32(confidence_of_row)).sum())


@pytest.mark.parametrize("max_members", [0, 5])
def test_stage_limit_is_named(max_members: int) -> None:
    with pytest.raises(ValueError, match=f"max_members: got {max_members}; must be between 1 and 4"):
        Limits(max_members=max_members)


@pytest.mark.parametrize(
    ("seconds", "ticks"),
    [(1e-12, 1), (2**-30, 1), (1.49 * 2**-30, 1), (1.51 * 2**-30, 2), (0.5, 2**29), (3.0, 3 * 2**30)],
)
def test_seconds_are_counted_in_ticks(seconds: float, ticks: int) -> None:
    assert whole_ticks(seconds) == ticks / 2**30

"""Policies more careful than the front's dearest: the safe beginning of a walk towards cheaper ones.

A front keeps only what is more accurate than everything cheaper, on half A. Its dearest policy may so lie far under the
reference's cost, and owe its place to chance; where a walk begins with it and its promise just fails on half B, nothing
but the reference is left. The same stages with thresholds nearer to 1 exit fewer rows, so that their answers differ
less from those of the stages' last member.
"""

from dataclasses import replace

from cascade_serve.core.cost import Cost
from cascade_serve.planner.committee import Committee, Gate, Gates, Rules, evaluate_policy
from cascade_serve.planner.search import Candidate, Limits

_STEPS = (0.25, 0.5, 0.75)
"""Of the way that is left from 1 down to a threshold of the front's dearest policy."""


def more_careful(
    half_A: Committee, rules: Rules, dearest: Candidate, *, reference: int, limits: Limits, cost: Cost
) -> tuple[Candidate, ...]:
    """Give more careful variants of a policy that ends with the reference.

    Args:
        half_A: what the members said of half A.
        rules: how they speak together.
        dearest: the front's dearest policy.
        reference: index of the member that regret is measured against.
        limits: that every policy keeps to.
        cost: that is saved.

    Returns:
        from dear to cheap, each dearer than ``dearest`` and cheaper than the reference alone; none where the policy
        ends with another member.
    """
    if len(dearest.gates) == 1 or dearest.gates[-1].member != reference:
        return ()
    found = []
    for step in _STEPS:
        gates = _raise_thresholds(dearest.gates, step)
        outcome = evaluate_policy(half_A, rules, gates)
        is_within = limits.mean_flops is None or outcome.expected_flops <= limits.mean_flops
        mean_cost = outcome.mean_cost(cost)
        if is_within and dearest.mean_cost < mean_cost < half_A.costs(cost)[reference]:
            found.append(Candidate(gates=gates, correct=int(outcome.correct_N.sum()), mean_cost=mean_cost))
    return tuple(sorted(found, key=lambda candidate: -candidate.mean_cost))


def _raise_thresholds(gates: Gates, share: float) -> Gates:
    """Keep a share of what each threshold lacks to 1."""
    return tuple(_raised(gate, share) for gate in gates)


def _raised(gate: Gate, share: float) -> Gate:
    return gate if gate.threshold is None else replace(gate, threshold=1 - share * (1 - gate.threshold))

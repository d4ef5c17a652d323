"""The report of a study: pictures of the front, of the members' calibration and of the exits, and all numbers as JSON.

Policies were chosen on half A; every number and point here is measured on half B, which had no part in that choice.
"""

import json
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import TypedDict

from cascade_serve.core.combine import Combine
from cascade_serve.core.cost import Cost
from cascade_serve.core.plan import Plan
from cascade_serve.errors import ConfigError
from cascade_serve.planner.calibration import expected_calibration_error
from cascade_serve.planner.committee import Gate, Outcome, evaluate_policy
from cascade_serve.planner.pictures import Dot, draw_exits, draw_pareto, draw_reliability
from cascade_serve.planner.planning import Study, Trial, describe_gates
from cascade_serve.planner.running import running_predictions
from cascade_serve.planner.search import Candidate
from cascade_serve.planner.words import FRONT_PREFIX, describe_certificate, describe_stages

JSON_FILE = "report.json"
PARETO_FILE = "pareto.png"
RELIABILITY_FILE = "reliability.png"
EXITS_FILE = "exits.png"
_DPI = 150


class _Rival(TypedDict):
    """A point of the front beside one member."""

    stages: str
    mean_flops: float
    flops_ratio: float
    mean_seconds: float | None
    cost_ratio: float
    accuracy: float
    accuracy_gain: float


def write_report(folder: Path, study: Study, plan: Plan) -> None:
    """Write the report's four files, over those of an earlier one.

    Args:
        folder: made if absent.
        study: what planning found.
        plan: what was drawn from it.

    Raises:
        ConfigError: the folder can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / JSON_FILE).write_text(json.dumps(report_data(study, plan), indent=2) + "\n", encoding="utf-8")
        draw_pareto(_dots(study, plan), len(study.rows_B), plan.cost).savefig(folder / PARETO_FILE, dpi=_DPI)
        draw_reliability(study.committee.rows(study.rows_B)).savefig(folder / RELIABILITY_FILE, dpi=_DPI)
        named = [policy for name, policy in plan.policies.items() if _is_named(name)]
        draw_exits(named, study.committee.names).savefig(folder / EXITS_FILE, dpi=_DPI)
    except OSError as error:
        raise ConfigError(f"--report: {error.filename or folder}: {error.strerror}") from error


def _is_named(policy: str) -> bool:
    return not policy.startswith(FRONT_PREFIX)


def report_data(study: Study, plan: Plan) -> dict[str, object]:
    """Give all numbers of the report, fit for JSON."""
    chosen = study.chosen.rules
    return {
        "measured_on": "half B",
        "calibration": None if plan.calibration is None else asdict(plan.calibration),
        "combine": chosen.combine.value,
        "confidence": chosen.confidence.value,
        "reference": plan.reference,
        "cost": plan.cost.value,
        "cost_batch_size": plan.cost_batch_size,
        "members": [_member_data(study, member) for member in range(len(study.committee.names))],
        "policies": [
            {**asdict(policy), "stages_text": describe_stages(policy), "promise": describe_certificate(policy)}
            for policy in plan.policies.values()
        ],
        "rules_tried_on_half_A": [_trial_data(study, trial) for trial in study.trials],
    }


def _trial_data(study: Study, trial: Trial) -> dict[str, object]:
    outcome = evaluate_policy(study.committee.rows(study.rows_A), trial.rules, trial.gates)
    return {
        "combine": trial.rules.combine.value,
        "confidence": trial.rules.confidence.value,
        "is_chosen": trial is study.chosen,
        "front_points": len(trial.front),
        "default_stages": describe_gates(study.committee.names, trial.gates),
        "default_mean_flops": outcome.expected_flops if trial.reaches_promise else None,
        "default_mean_seconds": outcome.expected_seconds if trial.reaches_promise else None,
        "default_accuracy": trial.accuracy,
    }


def _member_data(study: Study, member: int) -> dict[str, object]:
    """Compare one member with the front: what half A offers at its cost, and at its accuracy, measured on half B."""
    committee = study.committee
    alone = study.evaluate((Gate(member=member),))
    cost = alone.mean_cost(study.demands.cost)
    at_cost = [point for point in study.chosen.front if point.mean_cost <= cost]
    hits_A = int(study.evaluate_all((Gate(member=member),)).rows(study.rows_A).correct_N.sum())
    at_accuracy = [point for point in study.chosen.front if point.correct >= hits_A]
    equal_cost = _rival(study, at_cost[-1], alone) if at_cost else None
    equal_accuracy = _rival(study, at_accuracy[0], alone) if at_accuracy else None
    logits_NK, usable_N = committee.rows(study.rows_B).score(member, Combine.MEAN_PROBS)
    return {
        "name": committee.names[member],
        "flops": committee.flops[member],
        "seconds": alone.expected_seconds,
        "temperature": committee.temperatures[member],
        "accuracy": alone.accuracy,
        "expected_calibration_error": expected_calibration_error(
            logits_NK[usable_N], committee.labels_N[study.rows_B][usable_N]
        ),
        "at_equal_cost": equal_cost,
        "is_front_better_at_equal_cost": equal_cost is not None and equal_cost["accuracy_gain"] > 0,
        "at_equal_accuracy": equal_accuracy,
        "is_front_cheaper_at_equal_accuracy": equal_accuracy is not None
        and equal_accuracy["cost_ratio"] < 1
        and equal_accuracy["accuracy_gain"] >= 0,
    }


def _rival(study: Study, point: Candidate, alone: Outcome) -> _Rival:
    outcome, cost = study.evaluate(point.gates), study.demands.cost
    return _Rival(
        stages=describe_gates(study.committee.names, point.gates),
        mean_flops=outcome.expected_flops,
        flops_ratio=outcome.expected_flops / alone.worst_case_flops,
        mean_seconds=outcome.expected_seconds,
        cost_ratio=outcome.mean_cost(cost) / alone.mean_cost(cost),
        accuracy=outcome.accuracy,
        accuracy_gain=outcome.accuracy - alone.accuracy,
    )


def _dots(study: Study, plan: Plan) -> list[Dot]:
    """Place members, ensembles, the front and the chosen policies."""
    committee = study.committee
    costs = committee.costs(plan.cost)
    dots = [
        Dot(kind="single member", label=name, cost=cost, accuracy=study.evaluate((Gate(member=member),)).accuracy)
        for member, (name, cost) in enumerate(zip(committee.names, costs, strict=True))
    ]
    dots += _ensembles(study)
    for name, policy in plan.policies.items():
        mean = policy.expected_seconds if plan.cost is Cost.SECONDS else policy.expected_flops
        assert mean is not None
        assert policy.accuracy is not None
        kind = name if _is_named(name) else "cascade, chosen on half A"
        dots.append(Dot(kind=kind, label=None, cost=mean, accuracy=policy.accuracy))
    return dots


def _ensembles(study: Study) -> list[Dot]:
    """Place every set of members that always run together; none where only the last one's word counts."""
    rules, limits = study.chosen.rules, study.demands.limits
    if rules.combine is Combine.LAST:
        return []
    half_B = study.committee.rows(study.rows_B)
    running = running_predictions(half_B, rules.combine, (rules.confidence,), limits.max_members, lambda: None)
    members, costs = range(len(half_B.names)), half_B.costs(study.demands.cost)
    sets = [chosen for size in range(2, limits.max_members + 1) for chosen in combinations(members, size)]
    return [
        Dot(
            kind="ensemble, all members run",
            label=None,
            cost=sum(costs[member] for member in chosen),
            accuracy=float(running[rules.confidence].correct(chosen).mean()),
        )
        for chosen in sets
    ]

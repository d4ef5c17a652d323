"""A plan in words and tables, for people at a terminal; needs nothing that a serving image lacks."""

import math
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from cascade_serve.core.cost import Cost, format_flops, format_seconds, seconds_at
from cascade_serve.core.plan import Certificate, Plan, Policy, Promise, Stage

FRONT_PREFIX = "front-"


def describe_stages(policy: Policy) -> str:
    """Write stages as ``--stages`` takes them, such as ``resnet20:0.9,resnet56``."""
    return ",".join(stage_text(stage.member, stage.threshold) for stage in policy.stages)


def stage_text(member: str, threshold: float | None) -> str:
    """Write one stage as ``--stages`` takes it, with digits enough for the same float32, as thresholds are compared."""
    return member if threshold is None else f"{member}:{threshold:.10g}"


def describe_certificate(policy: Policy) -> str:
    """Say what a policy promises, in words."""
    certificate = policy.certificate
    if certificate is None:
        return "none"
    if _is_reference_itself(policy, certificate):
        return "is the reference itself, so it loses nothing against it by definition"
    how_sure = f"{100 * certificate.level:.10g} % sure, tested on {certificate.n:,} rows"
    points = 100 * certificate.lower_bound
    if certificate.promise is Promise.MAX_REGRET:
        return (
            f"at most {100 * certificate.bound:g} points less accurate than {certificate.reference} ({how_sure}:"
            f" the difference is above {points:+.2f} points)"
        )
    return f"at least {100 * certificate.bound:g} % accurate ({how_sure}: above {points:.2f} %)"


def _is_reference_itself(policy: Policy, certificate: Certificate) -> bool:
    return certificate.promise is Promise.MAX_REGRET and [stage.member for stage in policy.stages] == [
        certificate.reference
    ]


def policy_tables(plan: Plan) -> list[Table]:
    """Lay out the policies that have a name of their own, and, where there is one, the front from cheap to dear."""
    named = [policy for name, policy in plan.policies.items() if not name.startswith(FRONT_PREFIX)]
    front = [policy for name, policy in plan.policies.items() if name.startswith(FRONT_PREFIX)]
    tables = [_policy_table(plan, "policies", named)]
    return [_policy_table(plan, "front, from cheap to dear", front), *tables] if front else tables


def legend(plan: Plan) -> str:
    """Explain the columns of the tables."""
    texts = {
        Promise.MAX_REGRET: f"; promise: points of accuracy, against {plan.reference}",
        Promise.MIN_ACCURACY: "; promise: accuracy, %",
    }
    promised = {policy.certificate.promise for policy in plan.policies.values() if policy.certificate is not None}
    return (
        f"accuracy ± half of its 95 % interval; FLOPs per image, two a multiply-add{_time_legend(plan)}; ratio: mean"
        f" {'time to that' if plan.cost is Cost.SECONDS else 'FLOPs to those'} of {plan.reference or 'the last stage'};"
        f" exits: share of rows by stage{''.join(texts[promise] for promise in sorted(promised))}"
    )


def _time_legend(plan: Plan) -> str:
    return f"; time per image by the members' profiles, {profiled_at(plan)}" if _has_times(plan) else ""


def profiled_at(plan: Plan) -> str:
    """Say at which batch size of the members' profiles a plan's times are."""
    return "each at " + (
        "its best batch size" if plan.cost_batch_size is None else f"batch size {plan.cost_batch_size}"
    )


def _has_times(plan: Plan) -> bool:
    return any(policy.expected_seconds is not None for policy in plan.policies.values())


def promises(plan: Plan) -> list[str]:
    """Say what each named policy promises, a line each."""
    return [
        f"{name}: {describe_certificate(policy)}"
        for name, policy in plan.policies.items()
        if not name.startswith(FRONT_PREFIX) and policy.certificate is not None
    ]


def _policy_table(plan: Plan, title: str, policies: Sequence[Policy]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("policy", no_wrap=True)
    mean = "mean\nFLOPs,\ntime" if _has_times(plan) else "mean\nFLOPs"
    for column in ("accuracy %", mean, "worst\nFLOPs", "ratio", "exits %", "promise"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("stages: thresholds", ratio=1)
    for policy in policies:
        table.add_row(*_cells(plan, policy))
    return table


def _cells(plan: Plan, policy: Policy) -> tuple[str, ...]:
    """Give one policy's cells; numbers that were not measured are dashes."""
    return (
        policy.name,
        _accuracy(policy),
        _mean_costs(policy),
        format_flops(policy.worst_case_flops),
        _ratio(plan, policy),
        "-" if policy.exit_shares is None else _percentages(policy.exit_shares),
        _short_promise(policy.certificate),
        " ".join(_short_stage(stage) for stage in policy.stages),
    )


def _mean_costs(policy: Policy) -> str:
    """Write mean FLOPs, and under them mean time where it is known: beside them there would be no room."""
    flops = "-" if policy.expected_flops is None else format_flops(policy.expected_flops)
    return flops if policy.expected_seconds is None else f"{flops}\n{format_seconds(policy.expected_seconds)}"


def _ratio(plan: Plan, policy: Policy) -> str:
    """Compare a policy's mean cost with that of the reference, or of its own last stage, alone."""
    yardstick = {member.name: member for member in plan.members}.get(plan.reference or policy.stages[-1].member)
    mean = policy.expected_seconds if plan.cost is Cost.SECONDS else policy.expected_flops
    if yardstick is None or mean is None:
        return "-"
    if plan.cost is Cost.FLOPS:
        return f"{mean / yardstick.flops:.2f}"
    seconds = seconds_at(yardstick.seconds or {}, plan.cost_batch_size)
    return "-" if math.isnan(seconds) else f"{mean / seconds:.2f}"


def _short_stage(stage: Stage) -> str:
    return stage.member if stage.threshold is None else f"{stage.member}:{stage.threshold:.3f}"


def _short_promise(certificate: Certificate | None) -> str:
    if certificate is None:
        return "-"
    sign = "≥ -" if certificate.promise is Promise.MAX_REGRET else "≥ "
    return f"{sign}{100 * certificate.bound:g}"


def _accuracy(policy: Policy) -> str:
    if policy.accuracy is None:
        return "-"
    if policy.accuracy_interval is None:
        return f"{100 * policy.accuracy:.2f}"
    lower, upper = policy.accuracy_interval
    return f"{100 * policy.accuracy:.2f} ±{50 * (upper - lower):.1f}"


def _percentages(shares: Sequence[float]) -> str:
    return " ".join(f"{100 * share:.0f}" for share in shares)


def precision_note(precisions: Iterable[str], cost: Cost) -> str | None:
    """Warn where FLOPs are compared that mean unlike work; None where they don't.

    Args:
        precisions: of the members that are compared.
        cost: what is kept small.
    """
    kinds = sorted(set(precisions))
    if cost is Cost.SECONDS or len(kinds) == 1:
        return None
    return f"members are in {' and '.join(kinds)}, whose FLOPs count alike: --cost seconds tells what a precision saves"


def calibration_note(plan: Plan) -> str:
    """Say what the numbers of a plan were measured on."""
    rows = plan.calibration
    if rows is None:
        return "nothing was measured: planned by hand without calibration; temperatures are 1"
    what = f"{rows.fingerprint.engine}, {rows.fingerprint.precision}; rows {rows.data_sha256[:12]}"
    if rows.n_test == 0:
        return f"measured on all {rows.n:,} calibration rows, on which temperatures were fitted too ({what})"
    return (
        f"chosen on {rows.n_search:,} rows (half A), measured and tested on {rows.n_test:,} others (half B),"
        f" split by seed {rows.seed} ({what})"
    )

"""A plan in words and tables, for people at a terminal; needs nothing that a serving image lacks."""

from collections.abc import Sequence

from rich.table import Table

from cascade_serve.core.cost import format_flops
from cascade_serve.core.plan import Certificate, Plan, Policy, Promise

FRONT_PREFIX = "front-"


def describe_stages(policy: Policy) -> str:
    """Write stages as ``--stages`` takes them, such as ``resnet20:0.9,resnet56``."""
    return ",".join(
        stage.member if stage.threshold is None else f"{stage.member}:{stage.threshold:g}" for stage in policy.stages
    )


def describe_certificate(policy: Policy) -> str:
    """Say what a policy promises, in words."""
    certificate = policy.certificate
    if certificate is None:
        return "none"
    if _is_reference_itself(policy, certificate):
        return "is the reference itself, so it loses nothing against it by definition"
    how_sure = f"{100 * certificate.level:g} % sure, tested on {certificate.n:,} rows"
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


def named_policies(plan: Plan) -> Table:
    """Lay out the policies that have a name of their own, with their certificates."""
    table = _policy_table(plan, "policies", "accuracy %\n[95 % interval]")
    table.add_column("promise", overflow="fold", ratio=2)
    for name, policy in plan.policies.items():
        if not name.startswith(FRONT_PREFIX):
            table.add_row(*_cells(plan, policy, _accuracy_with_interval(policy)), describe_certificate(policy))
    return table


def front_policies(plan: Plan) -> Table | None:
    """Lay out the front, from cheap to dear; None where the plan has none."""
    front = [policy for name, policy in plan.policies.items() if name.startswith(FRONT_PREFIX)]
    if not front:
        return None
    table = _policy_table(plan, "front, from cheap to dear", "accuracy %")
    table.add_column("promised", justify="right", no_wrap=True)
    for policy in front:
        table.add_row(*_cells(plan, policy, _accuracy(policy)), _short_promise(policy.certificate))
    return table


def _short_promise(certificate: Certificate | None) -> str:
    if certificate is None:
        return "-"
    sign = "≥ -" if certificate.promise is Promise.MAX_REGRET else "≥ "
    return f"{sign}{100 * certificate.bound:g}"


def _policy_table(plan: Plan, title: str, accuracy: str) -> Table:
    table = Table(title=title, title_justify="left", expand=False)
    table.add_column("policy", no_wrap=True)
    table.add_column("stages", overflow="fold", ratio=1)
    table.add_column(accuracy, justify="right", no_wrap=True)
    table.add_column("mean\nFLOPs", justify="right", no_wrap=True)
    table.add_column("worst\nFLOPs", justify="right", no_wrap=True)
    table.add_column(f"mean / {plan.reference}" if plan.reference else "mean / last", justify="right")
    table.add_column("exits %", justify="right")
    return table


def _cells(plan: Plan, policy: Policy, accuracy: str) -> tuple[str, ...]:
    """Give one policy's cells; numbers that were not measured are dashes."""
    yardstick = plan.reference or policy.stages[-1].member
    flops = {member.name: member.flops for member in plan.members}.get(yardstick)
    mean = policy.expected_flops
    return (
        policy.name,
        describe_stages(policy),
        accuracy,
        "-" if mean is None else format_flops(mean),
        format_flops(policy.worst_case_flops),
        "-" if mean is None or flops is None else f"{mean / flops:.2f}",
        "-" if policy.exit_shares is None else _percentages(policy.exit_shares),
    )


def _accuracy(policy: Policy) -> str:
    return "-" if policy.accuracy is None else f"{100 * policy.accuracy:.2f}"


def _accuracy_with_interval(policy: Policy) -> str:
    if policy.accuracy_interval is None:
        return _accuracy(policy)
    lower, upper = policy.accuracy_interval
    return f"{_accuracy(policy)}\n[{100 * lower:.1f}, {100 * upper:.1f}]"


def _percentages(shares: Sequence[float]) -> str:
    return " ".join(f"{100 * share:.0f}" for share in shares)


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

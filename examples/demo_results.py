"""What came of the demo: figures for scripts, tables for people."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from demo_runs import TASK, Run, find_run
from demo_server import totals
from demo_shell import console
from prometheus_client.samples import Sample
from rich.table import Table

from cascade_serve.core.cost import format_flops
from cascade_serve.planner.certificate import paired_lower_bound
from cascade_serve.planner.words import describe_certificate, describe_stages
from cascade_serve.rpc.info import ModelInfo


def summarise(runs: Sequence[Run], info: ModelInfo, metrics: Sequence[Sample], *, seconds: float) -> dict[str, Any]:
    """Gather all that was found, fit for JSON."""
    largest, default = (find_run(runs, title) for title in ("largest member alone", "default policy"))
    wins = int((default.correct_N & ~largest.correct_N).sum())
    losses = int((~default.correct_N & largest.correct_N).sum())
    n = len(default.correct_N)
    promise = info.policies["default"].certificate
    return {
        "seconds": seconds,
        "members": {name: member.flops for name, member in info.members.items()},
        "policies": {name: describe_stages(policy) for name, policy in info.policies.items()},
        "promise": None if promise is None else asdict(promise),
        "runs": [run.to_json() for run in runs],
        "default_against_largest": {
            "wins": wins,
            "losses": losses,
            "accuracy_difference": (wins - losses) / n,
            "lower_bound_95": paired_lower_bound(n=n, wins=wins, losses=losses, level=0.95),
            "flops_ratio": float(largest.flops_N.mean() / default.flops_N.mean()),
        },
        "metrics": {
            "requests": totals(metrics, "cascade_request_duration_seconds_count", "cascade", "outcome"),
            "exits": totals(metrics, "cascade_exits_total", "stage", "reason", cascade=TASK),
            "flops": totals(metrics, "cascade_flops_total", "cascade"),
            "baseline_flops": totals(metrics, "cascade_baseline_flops_total", "baseline", cascade=TASK),
            "compute_seconds": totals(metrics, "cascade_compute_seconds_sum", "member", cascade=TASK),
        },
    }


def show_results(runs: Sequence[Run], info: ModelInfo, summary: Mapping[str, Any]) -> None:
    """Print the table, what it means, and the metrics."""
    console.rule("4. What came of it", align="left")
    console.print(_result_table(runs, summary))
    compared = summary["default_against_largest"]
    console.print(
        f"The default policy, {describe_stages(info.policies['default'])} ({info.combine.value},"
        f" {info.confidence.value}), against the largest member on these images:"
        f" {100 * compared['accuracy_difference']:+.2f} points (it alone is right on {compared['wins']}, the largest"
        f" alone on {compared['losses']}; 95 % sure: above {100 * compared['lower_bound_95']:+.2f}) for"
        f" {compared['flops_ratio']:.1f} times fewer FLOPs a row."
    )
    console.print(f"Promised before: {describe_certificate(info.policies['default'])}.")
    console.print(_metric_table(runs, summary["metrics"]))


def _result_table(runs: Sequence[Run], summary: Mapping[str, Any]) -> Table:
    table = Table(title=f"{summary['runs'][0]['n']} held-out images through gRPC", title_justify="left")
    table.add_column("terms", no_wrap=True)
    for column in (
        "right %",
        "mean\nFLOPs",
        "worst\nFLOPs",
        "exits per stage",
        "p50 ms",
        "p99 ms",
        "promise\ncovers it",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        found = run.to_json()
        table.add_row(
            run.terms.title,
            f"{100 * found['accuracy']:.2f}",
            format_flops(found["mean_flops"]),
            format_flops(found["max_flops"]),
            " / ".join(map(str, found["exits"])),
            f"{found['latency_ms']['p50']:.2f}",
            f"{found['latency_ms']['p99']:.2f}",
            "yes" if run.certified else "-",
        )
    return table


def _metric_table(runs: Sequence[Run], metrics: Mapping[str, Mapping[str, float]]) -> Table:
    replied = sum(int(run.flops_N.sum()) for run in runs if run.terms.model == TASK)
    spent = metrics["flops"][TASK]
    saved = {name.replace("_", " "): 1 - spent / flops for name, flops in metrics["baseline_flops"].items()}
    table = Table(title=f"metrics of the server, cascade {TASK!r}", title_justify="left")
    table.add_column("what", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_row("requests", _listed({name: f"{count:,.0f}" for name, count in metrics["requests"].items()}))
    table.add_row("images by exit stage", _listed({name: f"{count:,.0f}" for name, count in metrics["exits"].items()}))
    table.add_row("FLOPs spent", f"{spent:,.0f}; the replies sum to {replied:,}")
    table.add_row("FLOPs saved", _listed({f"against the {name}": f"{share:.0%}" for name, share in saved.items()}))
    table.add_row(
        "seconds computing", _listed({name: f"{value:.2f}" for name, value in metrics["compute_seconds"].items()})
    )
    return table


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items())

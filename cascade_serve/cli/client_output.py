"""What the client commands print: results on standard output, progress on standard error."""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cascade_serve.core.cost import format_flops
from cascade_serve.core.interval import INTERVAL_LEVEL
from cascade_serve.errors import ConfigError
from cascade_serve.load.evaluation import Evaluation
from cascade_serve.load.generator import Progress as OnProgress
from cascade_serve.load.report import LoadReport

STANDARD_OUTPUT = Path("-")


def write_json(result: Mapping[str, Any], target: Path) -> None:
    """Write a result as JSON; NaN becomes null, and ``-`` is standard output.

    Raises:
        ConfigError: the file can't be written.
    """
    text = json.dumps(_without_nan(result), indent=2, ensure_ascii=False, allow_nan=False)
    if target == STANDARD_OUTPUT:
        typer.echo(text)
        return
    try:
        target.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{target}: {error.strerror}") from error


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of texts in aligned columns, the same on a terminal and in a file."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def print_evaluation(evaluation: Evaluation) -> None:
    """Print accuracy, then FLOPs, exits, latency and throughput."""
    low, high = evaluation.accuracy_interval
    interval = f"{INTERVAL_LEVEL:.0%} interval {low:.2%} to {high:.2%}, n = {evaluation.n}"
    weakest, its = min(evaluation.per_class.items(), key=lambda item: item[1].accuracy)
    print_table(
        [
            ("accuracy", f"{evaluation.accuracy:.2%} ({interval})"),
            ("weakest class", f"{weakest}: {its.accuracy:.2%} of {its.n}"),
            ("certified", f"{evaluation.certified_share:.1%} of the answers"),
            *_load_rows(evaluation.load),
        ]
    )


def print_load(report: LoadReport) -> None:
    """Print requests, FLOPs, exits, latency and throughput."""
    print_table(_load_rows(report))


def _load_rows(report: LoadReport) -> list[tuple[str, str]]:
    latency = report.latency_ms
    percentiles = f"p50 {latency.p50:.2f} ms, p90 {latency.p90:.2f} ms, p99 {latency.p99:.2f} ms"
    callers = f"{report.loop} loop, {report.concurrency} callers"
    speed = f"{report.images_per_s:.1f} images/s, {report.requests_per_s:.1f} requests/s"
    rows = [
        ("FLOPs per image", f"mean {format_flops(report.mean_flops)}, largest {format_flops(report.max_flops)}"),
        ("exits", ", ".join(_exit(report, stage) for stage in range(len(report.exits))) or "none"),
        ("latency", f"{percentiles}, max {latency.max:.2f} ms ({callers})"),
        ("throughput", f"{speed} ({report.requests} requests in {report.duration_s:.2f} s)"),
    ]
    if report.loop == "open":
        rows.append(("sent late", f"{report.max_send_delay_ms:.2f} ms at worst; part of the latency"))
    if report.unsent:
        rows.append(("never sent", f"{report.unsent} requests: more than the server takes, or too few callers"))
    if report.failed:
        rows.append(("failed", ", ".join(f"{count} {status}" for status, count in report.errors.items())))
    return rows


def _exit(report: LoadReport, stage: int) -> str:
    return f"stage {stage}: {report.exits[stage]} ({report.exits[stage] / report.images:.1%})"


@contextmanager
def show_progress(title: str, *, requests: int | None = None, seconds: float | None = None) -> Iterator[OnProgress]:
    """Show a bar on standard error while a run lasts, if that is a terminal.

    Args:
        title: what is running.
        requests: how many there will be; None where time is the bound.
        seconds: how long it will last.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), MofNCompleteColumn())
    start_s = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        total = requests if seconds is None else math.ceil(seconds)
        task = bar.add_task(title if seconds is None else f"{title} (seconds)", total=total)

        def show(done: int) -> None:
            bar.update(task, completed=done if seconds is None else min(time.monotonic() - start_s, seconds))

        yield show

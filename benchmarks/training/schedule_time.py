"""Process time of each data schedule beside that of training on everything, all trained in turn, an epoch at a time.

A shared machine takes up to half of its speed away for seconds at a time, and a training of seconds stands or falls by
it. Here every schedule's epoch lies beside the same epoch of the others, so that what slows one slows all.

    python -m benchmarks.training.schedule_time [--task digits|cifar10-jpeg] [--train-images N] [--width W]
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks.training.data_schedules import SCHEDULES
from benchmarks.training.environment import describe
from benchmarks.training.experiment import arguments
from benchmarks.training.tasks import Setting, add_setting, read_setting, use_one_thread
from training.members import build_member
from training.reports import EpochReport
from training.run import TrainingRun

_BASELINE = "all data"

Ratios = Mapping[str, tuple[float, float]]
"""Schedule → its evaluations and its process seconds over those of training on everything."""


def run_in_turn(runs: Mapping[str, TrainingRun], epochs: int) -> dict[str, EpochReport]:
    """Train all, an epoch of each at a time, beginning with another one each time; give the last reports."""
    names = list(runs)
    reports: dict[str, EpochReport] = {}
    for epoch in range(epochs):
        first = epoch % len(names)
        reports |= {name: runs[name].run_epoch() for name in names[first:] + names[:first]}
    return reports


def measure(setting: Setting, seed: int) -> Ratios:
    """Train by every schedule on the same images from the same weights; one seed."""
    task = setting.task(seed)
    loops = {name: replace(setting.model.loop, data_schedule=one, seed=seed) for name, one in SCHEDULES.items()}
    runs = {
        name: TrainingRun(
            build_member(replace(setting.model, loop=loop), task.train).module,
            task.train,
            loop,
            task.normalisation,
            device=setting.device,
        )
        for name, loop in loops.items()
    }
    reports = run_in_turn(runs, setting.model.loop.epochs)
    whole = reports[_BASELINE]
    return {
        name: (report.evaluations / whole.evaluations, report.process_seconds / whole.process_seconds)
        for name, report in reports.items()
    }


def make_table(measured: Sequence[Ratios]) -> str:
    """Write the ratios in per cent as a table in Markdown: median over seeds, and the least and the most."""
    lines = ["| schedule | evaluations % | process time %, median (least to most) | points above |", "|" + " --- |" * 4]
    for name in measured[0]:
        evaluations = 100 * statistics.median(ratios[name][0] for ratios in measured)
        times = [100 * ratios[name][1] for ratios in measured]
        middle = statistics.median(times)
        spread = f"{middle:.1f} ({min(times):.1f} to {max(times):.1f})"
        lines.append(f"| {name} | {evaluations:.1f} | {spread} | {middle - evaluations:+.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Run the experiment as a command."""
    parser = arguments(__doc__)
    add_setting(parser)
    options = parser.parse_args()
    use_one_thread()
    setting = read_setting(options)
    measured = []
    for seed in range(options.seeds):
        measured.append(measure(setting, seed))
        print(f"  seed {seed}: {json.dumps(measured[-1])}", file=sys.stderr, flush=True)
    print(f"n = {options.seeds} seeds; {setting.describe()}. {describe()}.\n\n{make_table(measured)}")


if __name__ == "__main__":
    main()

"""What core-sets were worth over sizes: the curve and the proxy's speed-up, from what ``core_sets`` left behind.

    python -m benchmarks.training.core_sets --fraction 0.1      (and 0.3, 0.5, 0.7: each size once)
    python -m benchmarks.training.selection_study [--task digits] [--run RUN_DIR]

Draws ``selection_<task>.png`` and prints the speed-ups as Markdown; with ``--run`` the study enters that run's report.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from training.report import write_study
from training.selection.study import CurveArm, CurvePoint, SelectionStudy, compare_arms, draw_study

_ALL = "all data"
_CONTROLS = ("random", "ccs, by the proxy")
_TARGET = "forgetting_events, by the target"
_Figures = Mapping[str, float]


def read_runs(logs: Iterable[Path]) -> dict[str, dict[int, list[_Figures]]]:
    """Gather arm → images → figures of every seed; of runs under several settings or versions, the latest count.

    Args:
        logs: of ``core_sets``, one a size.
    """
    found: dict[str, dict[int, list[_Figures]]] = defaultdict(lambda: defaultdict(list))
    for log in logs:
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        for line in lines:
            if line["key"] == lines[-1]["key"]:
                found[line["arm"]][int(line["figures"]["images"])].append(line["figures"])
    return found


def make_study(task: str, found: Mapping[str, Mapping[int, list[_Figures]]]) -> SelectionStudy:
    """Give the curves; all data are measured anew beside every size, and all of it counts."""
    everything = [figures for runs in found[_ALL].values() for figures in runs]
    num_images = int(everything[0]["images"])
    arms = [
        CurveArm(
            name=name,
            points=tuple(_point(size, runs) for size, runs in sorted(sizes.items())),
            is_control=name in _CONTROLS,
        )
        for name, sizes in found.items()
        if name != _ALL
    ]
    return SelectionStudy(
        title=f"Core-sets of {task}, trained on for the epochs of all data",
        num_images=num_images,
        arms=tuple(arms),
        full=_point(num_images, everything),
    )


def _point(size: int, runs: list[_Figures]) -> CurvePoint:
    seconds = tuple(figures["selection, process s"] for figures in runs if "selection, process s" in figures)
    return CurvePoint(
        subset_size=size, accuracies=tuple(figures["accuracy %"] / 100 for figures in runs), selection_s=seconds
    )


def print_speed_ups(study: SelectionStudy) -> None:
    """Print each proxy's speed-up beside the target as its own proxy, and whether it counts."""
    print("| chosen by | images | speed-up | error, against the target's own | one standard deviation | counts |")
    print("| --- | --- | --- | --- | --- | --- |")
    for arm in study.arms:
        if arm.is_control or arm.name.endswith("by the target"):
            continue
        for found in compare_arms(study, proxy=arm.name, target=_TARGET):
            tolerance = "-" if found.tolerance is None else f"{100 * found.tolerance:.2f}"
            print(
                f"| {arm.name} | {found.subset_size:,} | {found.ratio:.1f}x | {100 * found.error_difference:+.2f}"
                f" | {tolerance} | {'yes' if found.counts else 'no'} |"
            )


def main() -> None:
    """Read, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("digits", "cifar10-jpeg"), default="digits")
    parser.add_argument("--out", type=Path, default=Path("bench_out/training"), help="where the runs lie")
    parser.add_argument("--run", type=Path, help="a run's folder, whose report then shows the study")
    options = parser.parse_args()
    logs = sorted(options.out.glob(f"core_sets_{options.task}_*_same_epochs.jsonl"))
    if not logs:
        parser.error(f"--out: {options.out} holds no runs of core_sets on {options.task}")
    study = make_study(options.task, read_runs(logs))
    draw_study(study).savefig(options.out / f"selection_{options.task}.png", dpi=120)
    if options.run is not None:
        write_study(study, options.run, target=_TARGET)
    print_speed_ups(study)


if __name__ == "__main__":
    main()

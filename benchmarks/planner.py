"""Times the planner's search: members, rows and rules of a large zoo, on synthetic logits.

Run: python benchmarks/planner.py [--members 8] [--rows 50000] [--classes 10] [--repeats 3]
"""
# Shapes: N rows, K classes.

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import scipy

from cascade_serve.core.combine import Combine
from cascade_serve.core.confidence import Confidence
from cascade_serve.core.cost import Cost
from cascade_serve.planner.committee import Committee, whole_ticks
from cascade_serve.planner.demands import Demands
from cascade_serve.planner.planning import make_study
from cascade_serve.planner.running import running_predictions
from cascade_serve.planner.search import Limits, Search
from cascade_serve.planner.zoo_rows import ZooRows


def make_committee(members: int, rows: int, classes: int) -> Committee:
    """Draw members of growing accuracy that find the same rows hard."""
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, classes, rows)
    ease_N = rng.normal(0, 2, rows)
    logits = []
    for member in range(members):
        logits_NK = rng.normal(0, 1, (rows, classes))
        logits_NK[np.arange(rows), labels_N] += 3 + 0.4 * member + ease_N
        logits.append((2 * logits_NK).astype(np.float32))
    return Committee(
        names=tuple(f"member{member}" for member in range(members)),
        flops=tuple(int(1e7 * 1.5**member) for member in range(members)),
        temperatures=(1.5,) * members,
        logits=tuple(logits),
        labels_N=labels_N,
        seconds=tuple(whole_ticks(1e-4 * 1.4**member) for member in range(members)),
    )


def search(committee: Committee, combine: Combine, functions: tuple[Confidence, ...], cost: Cost = Cost.FLOPS) -> None:
    """Search exhaustively over all rows with one combination rule."""
    running = running_predictions(committee, combine, functions, 4, lambda: None)
    for function in functions:
        Search(committee, running[function], Limits(), cost).run(lambda: None)


def search_all(committee: Committee) -> None:
    """Search with all nine pairs of rules."""
    for combine in Combine:
        search(committee, combine, tuple(Confidence))


def study(committee: Committee) -> None:
    """Do all of planning: temperatures, halves, nine searches, walks."""
    rows = ZooRows(
        logits=committee.logits,
        labels_N=committee.labels_N,
        sample_ids_N=np.arange(committee.num_rows),
        num_repeated=0,
    )
    make_study(rows, committee.names, committee.flops, Demands())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("members", 8), ("rows", 50_000), ("classes", 10), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    committee = make_committee(options.members, options.rows, options.classes)
    print(
        f"{options.members} members, {options.rows:,} rows, {options.classes} classes, up to 4 stages, 16 thresholds;"
        f" wall-clock median [min, max] and median CPU seconds of n = {options.repeats};"
        f" {os.cpu_count()} cores, {platform.machine()},"
        f" Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}"
    )
    for combine in Combine:
        show(
            f"one pair, {combine.value} + max_prob",
            options.repeats,
            partial(search, committee, combine, (Confidence.MAX_PROB,)),
        )
    show(
        "one pair in seconds, mean_probs + max_prob",
        options.repeats,
        partial(search, committee, Combine.MEAN_PROBS, (Confidence.MAX_PROB,), Cost.SECONDS),
    )
    show("all nine pairs", options.repeats, partial(search_all, committee))
    show("all of planning (searches on half of the rows)", options.repeats, partial(study, committee))


def show(what: str, repeats: int, work: Callable[[], None]) -> None:
    wall_s, cpu_s = [], []
    for _ in range(repeats):
        began, cpu_began = time.perf_counter(), time.process_time()
        work()
        wall_s.append(time.perf_counter() - began)
        cpu_s.append(time.process_time() - cpu_began)
    print(
        f"{what:<50} {statistics.median(wall_s):6.2f} s [{min(wall_s):.2f}, {max(wall_s):.2f}]"
        f"  CPU {statistics.median(cpu_s):6.2f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()

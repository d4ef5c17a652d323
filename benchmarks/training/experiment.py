"""An experiment: arms that differ in one thing, run over seeds in turn, kept as they come, and printed as one table.

Arms are interleaved (each seed runs every arm before the next seed), so that a machine that slows down slows all of
them. Every run's figures are appended to ``<out>/<name>.jsonl`` when it ends; what is there already is not run again,
unless the versions or the settings behind it have changed.
"""

import argparse
import hashlib
import json
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.training.environment import describe

Figures = Mapping[str, float]
"""What one run gave: column → value. Shares are given as percentages."""

EVIDENCE = "evidence"
OPEN = "not evidence: claim open"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of doing it.

    Attributes:
        name: in the table.
        run: seed → figures; every arm of an experiment gives the same columns, or leaves some out.
    """

    name: str
    run: Callable[[int], Figures]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is compared, and what for.

    Attributes:
        name: of its files.
        title: over its table.
        arms: in the order of the table.
        baseline: the arm that all others are compared with, seed by seed.
        compared: column whose paired difference to the baseline is shown.
        ratios: columns that are shown as ratios to the baseline too.
        settings: whatever the figures depend on besides arm and seed; a change of it runs everything again.
        standing: ``EVIDENCE``, or ``OPEN`` where hardware made it too small to settle anything.
    """

    name: str
    title: str
    arms: Sequence[Arm]
    baseline: str
    compared: str = "accuracy %"
    ratios: Sequence[str] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    standing: str = EVIDENCE


def run_experiment(experiment: Experiment, seeds: Sequence[int], out: Path) -> str:
    """Run what has not been run yet, and give the table, which is also written to ``<out>/<name>.md``."""
    out.mkdir(parents=True, exist_ok=True)
    log = out / f"{experiment.name}.jsonl"
    key = _fingerprint(experiment)
    done = _read_done(log, key)
    for seed in seeds:
        for arm in experiment.arms:
            if (arm.name, seed) in done:
                continue
            figures = dict(arm.run(seed))
            done[arm.name, seed] = figures
            line = {"key": key, "arm": arm.name, "seed": seed, "figures": figures}
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            shown = ", ".join(f"{column} {value:.4g}" for column, value in figures.items())
            print(f"  seed {seed} {arm.name}: {shown}", file=sys.stderr, flush=True)
    table = make_table(experiment, done, seeds)
    (out / f"{experiment.name}.md").write_text(table, encoding="utf-8")
    return table


def _fingerprint(experiment: Experiment) -> str:
    content = {"settings": experiment.settings, "machine": describe()}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _read_done(log: Path, key: str) -> dict[tuple[str, int], dict[str, float]]:
    if not log.exists():
        return {}
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return {(line["arm"], line["seed"]): line["figures"] for line in lines if line["key"] == key}


def make_table(
    experiment: Experiment, done: Mapping[tuple[str, int], Mapping[str, float]], seeds: Sequence[int]
) -> str:
    """Write the table as Markdown: mean and standard deviation over seeds, paired differences and ratios."""
    columns = list(dict.fromkeys(column for figures in done.values() for column in figures))
    difference = f"{experiment.compared}, difference"
    head = ["arm", *columns, difference, *(f"{column}, ratio" for column in experiment.ratios)]
    rows = []
    for arm in experiment.arms:
        runs = [done[arm.name, seed] for seed in seeds]
        base = [done[experiment.baseline, seed] for seed in seeds]
        cells = [_spread([run[column] for run in runs if column in run]) for column in columns]
        pairs = list(zip(runs, base, strict=True))
        is_base = arm.name == experiment.baseline
        cells.append(_difference(pairs, experiment.compared, is_base=is_base))
        cells += [_ratio(pairs, column, is_base=is_base) for column in experiment.ratios]
        rows.append([arm.name, *cells])
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    note = (
        f"n = {len(seeds)} seeds ({', '.join(map(str, seeds))}), interleaved; mean ± standard deviation over seeds;"
        f" differences and ratios are paired by seed with `{experiment.baseline}`. {describe()}."
    )
    settings = ", ".join(f"{name} {value}" for name, value in experiment.settings.items())
    return (
        f"### {experiment.title}\n\n*{experiment.standing}*. `{_command()}`\n\n{note}"
        f"{f' Settings: {settings}.' if settings else ''}\n\n" + "\n".join(lines) + "\n"
    )


def _command() -> str:
    """Give the command as it was typed, but for where its files lie."""
    words = iter(sys.argv[1:])
    kept = []
    for word in words:
        if word in {"--out", "--data", "--schedule"}:
            value = next(words)
            if word == "--out":
                continue
            kept += [word, Path(value).name if word == "--schedule" else "DATA"]
        else:
            kept.append(word)
    return shlex.join(["python", "-m", f"benchmarks.training.{Path(sys.argv[0]).stem}", *kept])


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = statistics.fmean(values)
    if len(set(values)) == 1:
        return _number(mean)
    return f"{_number(mean)} ± {_number(statistics.stdev(values))}"


def _difference(pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], column: str, *, is_base: bool) -> str:
    if is_base or any(column not in run or column not in base for run, base in pairs):
        return "-"
    values = [run[column] - base[column] for run, base in pairs]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):+.2f}{spread}"


def _ratio(pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], column: str, *, is_base: bool) -> str:
    if is_base or any(not base.get(column) or column not in run for run, base in pairs):
        return "-"
    values = [run[column] / base[column] for run, base in pairs]
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.2f}" if abs(value) >= 0.1 else f"{value:.3g}"


def arguments(description: str | None, *, seeds: int = 5) -> argparse.ArgumentParser:
    """Give the options that all experiments share: ``--seeds``, ``--out`` and ``--device``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=seeds, help="how many seeds, from 0 (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("bench_out/training"), help="folder of the figures")
    parser.add_argument("--device", default="cpu", help="where to train (default: %(default)s)")
    return parser

"""The whole way on real images: four CIFAR-10 ResNets into a zoo, a plan, a server, and what it gives on unseen images.

The images of a labelled folder are split, stratified and seeded: one part calibrates and plans, the other is sent
through gRPC under several policies. Differences to the largest member are paired, on the same images.

    python -m benchmarks.committee IMAGES WEIGHTS [--out bench_out/committee] [--test-share 0.2] [--seed 0]

IMAGES is an image folder or a .tar.gz of one; WEIGHTS holds resnet20.safetensors, resnet32..., resnet44..., resnet56...
"""
# Shapes: N images.

import argparse
import csv
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import describe
from benchmarks.server import COMMAND, serve
from cascade_serve.bundle import load_bundle
from cascade_serve.core.arrays import BoolArray
from cascade_serve.core.cost import format_flops
from cascade_serve.core.plan import Plan

_MEMBERS = ("resnet20", "resnet32", "resnet44", "resnet56")
_LARGEST = "resnet56"
_TASK = "cifar10"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one policy gave on the unseen images.

    Attributes:
        report: what ``evaluate --json`` wrote.
        correct_N: bool [N], in the order of the files.
    """

    report: dict[str, Any]
    correct_N: BoolArray


def run(*arguments: str | Path) -> None:
    """Run a command of ours, and stop where it fails."""
    print("$ cascade-serve", *arguments, flush=True)
    subprocess.run([*COMMAND, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def split_images(source: Path, out: Path, test_share: float, seed: int) -> None:
    """Copy a folder's images into ``out/calibration`` and ``out/test``, class by class."""
    if source.name.endswith(".tar.gz"):
        unpacked = out / "images"
        with tarfile.open(source) as archive:
            archive.extractall(unpacked, filter="data")
        inner = list(unpacked.iterdir())
        source = inner[0] if len(inner) == 1 else unpacked
    rng = np.random.default_rng(seed)
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        files = sorted(folder.iterdir())
        num_test = round(test_share * len(files))
        for position, index in enumerate(rng.permutation(len(files)).tolist()):
            target = out / ("test" if position < num_test else "calibration") / folder.name / files[index].name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(files[index], target)


def evaluate(address: str, out: Path, cascade: str, name: str, *terms: str) -> Result:
    """Send the unseen images under some terms."""
    report, predictions = out / f"{name}.json", out / f"{name}.csv"
    where = ("--url", address, "--model", cascade, "--json", report, "--predictions", predictions)
    run("evaluate", out / "test", *where, *terms)
    with predictions.open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["path"])
    correct_N = np.array([row["label"] == row["prediction"] for row in rows])
    return Result(report=json.loads(report.read_text()), correct_N=correct_N)


def dearest_within(plan: Plan, flops: int) -> str:
    """Name the dearest policy of the front whose mean FLOPs, by the plan, are at most ``flops``."""
    costs = {
        policy.expected_flops: name
        for name, policy in plan.policies.items()
        if policy.expected_flops is not None and policy.expected_flops <= flops and name.startswith("front-")
    }
    return costs[max(costs)]


def print_table(results: dict[str, Result], largest: Result, flops: int) -> None:
    """Print what each policy gave, beside the largest member alone."""
    print("| policy | accuracy % | difference, points [paired 95 %] | mean FLOPs | ratio | worst row | exits |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, result in results.items():
        gain_N = 100 * (result.correct_N.astype(float) - largest.correct_N.astype(float))
        half = 1.96 * gain_N.std(ddof=1) / np.sqrt(len(gain_N))
        mean = gain_N.mean()
        cells = [
            f"{100 * result.correct_N.mean():.2f}",
            f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]",
            format_flops(result.report["mean_flops"]),
            f"{result.report['mean_flops'] / flops:.3f}",
            format_flops(result.report["max_flops"]),
            " / ".join(str(count) for count in result.report["exits"]),
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Go the whole way and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--out", type=Path, default=Path("bench_out/committee"))
    parser.add_argument("--test-share", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    out: Path = arguments.out
    shutil.rmtree(out, ignore_errors=True)
    split_images(arguments.images, out, arguments.test_share, arguments.seed)
    zoo, repository = out / "zoo", out / "repository"
    for member in _MEMBERS:
        weights = arguments.weights / f"{member}.safetensors"
        where = ("--task", _TASK, "--zoo", zoo, "--data", out / "calibration")
        run("zoo", "add", member, *where, "--arch", member, "--weights", weights)
    run("plan", zoo / _TASK, "--out", repository / _TASK / "1", "--report", out / "report")
    run("plan", zoo / _TASK, "--out", repository / "largest" / "1", "--stages", _LARGEST)
    run("plan", zoo / _TASK, "--out", repository / "capped" / "1", "--max-flops", "250M")
    plan = load_bundle(repository / _TASK / "1").plan
    flops = load_bundle(repository / "largest" / "1").plan.members[0].flops
    dear = dearest_within(plan, flops)
    with serve(repository) as server:
        largest = evaluate(server.address, out, "largest", _LARGEST)
        results = {f"{_LARGEST} alone": largest}
        for policy in ("default", "fast", dear):
            results[policy] = evaluate(server.address, out, _TASK, policy, "--policy", policy)
        results["ensemble of all stages of `accurate`"] = evaluate(
            server.address, out, _TASK, "ensemble", "--policy", "accurate", "--mode", "ensemble"
        )
        results["default, planned with --max-flops 250M"] = evaluate(server.address, out, "capped", "capped")
    print(f"\n{describe()}; calibrated on {plan.calibration.n if plan.calibration else 0} images, tested on")
    print(f"{len(largest.correct_N)} others through gRPC; split seed {arguments.seed}; reference {plan.reference}\n")
    print_table(results, largest, flops)


if __name__ == "__main__":
    main()

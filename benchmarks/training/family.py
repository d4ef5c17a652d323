"""A family of members, from images to answers: trained by the recipe, planned, served, and judged through gRPC.

    python -m benchmarks.training.family DATA [--device cpu|cuda] [--recipe cifar10] [--set key=value ...]
    python -m benchmarks.training.family DATA --recipe benchmarks/training/family.py:plain_cifar10

DATA is a folder with cifar10-jpeg-train.tar.gz and cifar10-jpeg-val.tar.gz. The second command trains the same members
for as many evaluations without anything that the recipe adds. Nothing is chosen on the val images, which are sent.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.committee import Result, evaluate, print_table, run
from benchmarks.server import serve
from benchmarks.training.environment import describe
from cascade_serve.bundle import load_bundle
from cascade_serve.core.plan import Member, Plan
from training.augment.config import AugmentConfig, Flip
from training.config import RunConfig
from training.data_schedule.build import make_data_schedule
from training.data_schedule.config import AllData
from training.loop_config import LoopConfig
from training.lr import MultiStep
from training.optim import OptimConfig
from training.recipes.cifar import cifar10

TASK = "cifar10"
_TRAIN_IMAGES = 42_500
"""Of the recipe's split; only its proportion to an epoch matters."""


def plain_cifar10(*, device: str = "cpu", seed: int = 0) -> RunConfig:
    """Give the recipe's members, trained for as many evaluations by a stepped rate on all data, cropped and flipped."""
    config = cifar10(device=device, seed=seed)
    members = tuple(replace(member, loop=_plain(member.loop)) for member in config.members)
    return replace(config, members=members, should_select=False, should_search=False)


def _plain(loop: LoopConfig) -> LoopConfig:
    planned = make_data_schedule(loop.data_schedule, _TRAIN_IMAGES, loop.epochs, None).planned_evaluations
    return LoopConfig(
        epochs=max(1, round(sum(planned) / _TRAIN_IMAGES)),
        batch_size=loop.batch_size,
        optim=OptimConfig(weight_decay=5e-4),
        lr=MultiStep(),
        augment=AugmentConfig(pad_px=4, flip=Flip.RANDOM),
        data_schedule=AllData(),
        precision=loop.precision,
        channels_last=loop.channels_last,
        seed=loop.seed,
    )


def train(options: argparse.Namespace, out: Path) -> float:
    """Train the family into a zoo; gives the wall seconds it took."""
    command = [sys.executable, "-m", "training", "run", options.recipe, "--data", options.data]
    command += ["--out", out / "run", "--zoo", out / "zoo", "--device", options.device, "--seed", str(options.seed)]
    for setting in options.settings:
        command += ["--set", setting]
    print("$ cascade-train", *command[3:], flush=True)
    start_s = time.perf_counter()
    subprocess.run([str(part) for part in command], check=True)
    return time.perf_counter() - start_s


def print_members(run_folder: Path) -> None:
    """Print what each member took and came to."""
    record: dict[str, Any] = json.loads((run_folder / "run.json").read_text())
    accuracy = json.loads((run_folder / "evaluation/accuracy.json").read_text())
    print("| member | epochs | evaluations | process s | wall s | val accuracy % [95 %] |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, folder in record["members"].items():
        last = json.loads((run_folder / folder / "log.jsonl").read_text().splitlines()[-1])
        found = accuracy[name]["test"]
        low, high = found["interval"]
        print(
            f"| {name} | {last['epochs']} | {last['evaluations']:,} | {last['process_seconds']:.0f}"
            f" | {last['seconds']:.0f} | {100 * found['top1']:.2f} [{100 * low:.2f}, {100 * high:.2f}] |"
        )


def print_training_cost(out: Path, singles: Sequence[Member], plan: Plan, results: Mapping[str, Result]) -> None:
    """Print what each committee cost to train, beside the single members.

    A training step is taken as three forward passes: the backward pass computes two gradients, of the inputs and of the
    weights, each as dear as the forward pass (Kaplan et al., arXiv 2001.08361, section 2.1).
    """
    record: dict[str, Any] = json.loads((out / "run/run.json").read_text())
    logs = {
        name: json.loads((out / "run" / folder / "log.jsonl").read_text().splitlines()[-1])
        for name, folder in record["members"].items()
    }
    flops = {member.name: 3 * member.flops * logs[member.name]["evaluations"] for member in singles}
    seconds = {name: log["process_seconds"] for name, log in logs.items()}
    biggest = max(flops, key=flops.__getitem__)
    trained: dict[str, tuple[str, ...]] = {f"{name} alone": (name,) for name in flops}
    for name in results.keys() & plan.policies.keys():
        trained[name] = tuple(stage.member for stage in plan.policies[name].stages)
    print("\n| what is trained | members | training FLOPs | ratio | process s | ratio | val accuracy % |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for title, names in trained.items():
        total, took = sum(flops[name] for name in names), sum(seconds[name] for name in names)
        accuracy = f"{100 * results[title].correct_N.mean():.2f}" if title in results else "-"
        print(
            f"| {title} | {', '.join(names)} | {total:.3g} | {total / flops[biggest]:.2f}"
            f" | {took:.0f} | {took / seconds[biggest]:.2f} | {accuracy} |"
        )


def judge(out: Path) -> None:
    """Plan, serve, and send the val images under some policies and to each member alone."""
    zoo, repository = out / "zoo" / TASK, out / "repository"
    run("plan", zoo, "--out", repository / TASK / "1", "--report", out / "report")
    names = [member["name"] for member in json.loads((out / "run/run.json").read_text())["config"]["members"]]
    for name in names:
        run("plan", zoo, "--out", repository / name / "1", "--stages", name)
    plan = load_bundle(repository / TASK / "1").plan
    singles = [load_bundle(repository / name / "1").plan.members[0] for name in names]
    biggest = singles[-1]
    with serve(repository) as server:
        results = {f"{name} alone": evaluate(server.address, out, name, name) for name in names}
        for policy in ("default", "fast", "accurate"):
            results[policy] = evaluate(server.address, out, TASK, policy, "--policy", policy)
    largest = results[f"{biggest.name} alone"]
    print(f"\n{len(largest.correct_N)} val images through gRPC\n")
    print_table(results, largest, biggest.flops)
    print_training_cost(out, singles, plan, results)


def main() -> None:
    """Go the whole way and print two tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("bench_out/family"))
    parser.add_argument("--recipe", default=TASK)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    options = parser.parse_args()
    out: Path = options.out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    seconds = train(options, out)
    print(f"\n{describe()}; recipe {options.recipe}, seed {options.seed}: {seconds:.0f} s from images to zoo\n")
    print_members(out / "run")
    unpack_val(options.data, out / "test")
    judge(out)


def unpack_val(data: Path, folder: Path) -> None:
    """Lay the val images out as ``<class>/<file>``."""
    unpacked = folder.with_name("unpacked")
    shutil.unpack_archive(data / "cifar10-jpeg-val.tar.gz", unpacked, filter="data")
    inner = list(unpacked.iterdir())
    (inner[0] if len(inner) == 1 else unpacked).rename(folder)


if __name__ == "__main__":
    main()

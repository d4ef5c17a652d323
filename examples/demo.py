"""The whole job on real data, in a minute: train, plan, serve and measure a cascade for handwritten digits.

Run by ``make demo``. Everything it makes lies in one folder, ``demo_out`` by default.
"""

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from demo_results import show_results, summarise
from demo_runs import LARGEST, TASK, deepest_policy, send_all
from demo_server import scrape, serving
from demo_shell import Command, DemoError, RunningCommand, console, run_commands, show_command
from rich.progress import Progress

from cascade_serve import Client
from cascade_serve.core.cost import format_flops
from cascade_serve.errors import CascadeError
from cascade_serve.rpc.info import ModelInfo
from training.data.digits import load_digits
from training.data.images import LabelledImages, write_image_folder
from training.data.splits import split
from training.errors import TrainingError
from training.evaluation import evaluate
from training.members import MemberConfig, TrainedMember, train_member
from training.recipes.digits import digits_members, digits_splits

MAX_REGRET = 0.025
_MARKER = ".made_by_cascade_serve_demo"


def run_demo(out: Path) -> dict[str, Any]:
    """Do the whole job.

    Args:
        out: folder for everything; one that an earlier demo made is emptied first.

    Returns:
        what is also written to ``summary.json``.

    Raises:
        DemoError: a command failed, the server did not start, or the folder is not the demo's.
        CascadeError: a request failed.
    """
    start_s = time.perf_counter()
    prepare_folder(out)
    parts = split(load_digits(), digits_splits())
    write_folders(parts, out)
    train_and_add(parts, out)
    plan(parts, out)
    with serving(out / "repository", out / "server.log") as server, Client(server.url) as client:
        runs = send_all(client, parts["test"])
        info = client.info(TASK)
        metrics = scrape(server.metrics_url)
    summary = summarise(runs, info, metrics, seconds=time.perf_counter() - start_s)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    show_results(runs, info, summary)
    show_next(parts["test"], info, out)
    return summary


def prepare_folder(out: Path) -> None:
    """Make an empty folder; what an earlier demo left is removed, anything else is not touched."""
    if out.exists() and not (out / _MARKER).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise DemoError(f"{out} exists and was not made by this demo; choose another folder with --out")
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / _MARKER).touch()


def train_and_add(parts: Mapping[str, LabelledImages], out: Path) -> None:
    """Train the committee's members, and add each to a zoo while the next is being trained."""
    train_rows, calibration = parts["train"], parts["calibration"]
    console.rule("1. Train three members on scikit-learn's handwritten digits", align="left")
    console.print(
        f"{len(train_rows)} images to train on, {len(calibration)} to calibrate and plan on,"
        f" {len(parts['test'])} that nothing is chosen on (disjoint, stratified)"
    )
    # Networks this small lose more time in handing work over than a second thread wins.
    torch.set_num_threads(1)
    with ExitStack() as stack:
        adding = []
        for config in digits_members():
            member = train_one(config, parts, out)
            adding.append(stack.enter_context(RunningCommand(*_adding(member, out))))
        console.rule("2. Add them to a zoo: ONNX graph, card, calibration logits", align="left")
        for running in adding:
            running.finish()


def train_one(config: MemberConfig, parts: Mapping[str, LabelledImages], out: Path) -> TrainedMember:
    """Train one member and say how it went."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(config.name, total=config.loop.epochs)
        member = train_member(config, parts["train"], out / "weights", progress=lambda _: bar.advance(task))
    found = evaluate(member.model, parts["calibration"], member.normalisation)
    console.print(
        f"  {config.name:<7} {config.architecture}: {member.reports[-1].evaluations:,} images seen in"
        f" {member.reports[-1].seconds:.1f} s; {100 * found.top1:.1f} % right on the calibration images"
    )
    return member


def _adding(member: TrainedMember, out: Path) -> Command:
    """Give the command that adds a member to the zoo."""
    return (
        *("zoo", "add", member.config.name, "--task", TASK, "--zoo", out / "zoo", "--data", out / "calibration"),
        *("--arch", member.config.architecture, "--weights", member.weights),
    )


def write_folders(parts: Mapping[str, LabelledImages], out: Path) -> None:
    """Write the images as the command line wants them, ``<class>/<file>``."""
    for name in ("calibration", "test"):
        write_image_folder(parts[name], out / name)


def plan(parts: Mapping[str, LabelledImages], out: Path) -> None:
    """Plan the cascade, and beside it the largest member alone as a cascade of one stage."""
    console.rule("3. Plan", align="left")
    half = len(parts["calibration"]) // 2
    console.print(
        f"A promise is tested on half of the calibration images. On {half} of them, even a cascade that never differs"
        f" from its reference can't be promised, at 95 %, to lose less than {100 * 3 / half:.2f} points; so this demo"
        f" asks for {100 * MAX_REGRET:g} (the default, 0.5, wants some thousands of images)."
    )
    task, repository = out / "zoo" / TASK, out / "repository"
    # Left to itself, the planner may choose to average nothing, and then there is no ensemble to compare with.
    demands = ("--combine", "mean_logits", "--max-regret", str(MAX_REGRET), "--report", out / "report")
    # The largest member alone is a second cascade of the same server.
    run_commands(
        ("plan", task, "--out", repository / TASK / "1", *demands),
        ("plan", task, "--stages", "large", "--out", repository / LARGEST / "1"),
    )


def show_next(test: LabelledImages, info: ModelInfo, out: Path) -> None:
    """Name the plot and the commands to go on with."""
    console.rule("6. Go on", align="left")
    image = out / "test" / test.classes[test.labels_B[0]] / f"{test.ids_B[0]:06d}.png"
    pair = ["--url", "127.0.0.1:8001", "--model", TASK]
    cap = format_flops(deepest_policy(info).worst_case_flops / 2)
    console.print(
        f"The Pareto plot: {out / 'report' / 'pareto.png'}; all figures: {out / 'summary.json'}", soft_wrap=True
    )
    show_command("serve", out / "repository")
    show_command("infer", image, *pair, "--confidence-threshold", "0.99")
    show_command("evaluate", out / "test", *pair, "--mode", "ensemble")
    show_command("bench", *pair, "--concurrency", "8", "--seconds", "10")
    console.print("A new version under a cap; a running server takes it up by itself:")
    show_command("plan", out / "zoo" / TASK, "--max-flops", cap, "--out", out / "repository" / TASK / "2")


def main() -> int:
    """Run the demo as a command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo_out"), help="folder for everything (default: demo_out)")
    arguments = parser.parse_args()
    # A plain SIGTERM would leave the server behind; a shell's background job ignores SIGINT unless told otherwise.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        run_demo(arguments.out)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (DemoError, CascadeError, TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

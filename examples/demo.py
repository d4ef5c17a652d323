"""The whole job on real data, in a minute: train, plan, serve and measure a cascade for handwritten digits.

Run by ``make demo``. Everything it makes lies in one folder, ``demo_out`` by default.
"""

import argparse
import json
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from demo_results import show_results, summarise
from demo_runs import LARGEST, TASK, deepest_policy, send_all
from demo_server import scrape, serving
from demo_shell import DemoError, console, run_command, run_commands, show_command

from cascade_serve import Client
from cascade_serve.core.cost import format_flops
from cascade_serve.errors import CascadeError
from cascade_serve.rpc.info import ModelInfo
from model_zoo.errors import ZooError
from model_zoo.image_folder import FolderImages, ImageFolder, read_images, scan_image_folder
from model_zoo.store import read_task

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
    train(out)
    plan(out)
    folder = scan_image_folder(_images(out) / "test")
    with serving(out / "repository", out / "server.log") as server, Client(server.url) as client:
        runs = send_all(client, read_test_images(folder, out))
        info = client.info(TASK)
        metrics = scrape(server.metrics_url)
    summary = summarise(runs, info, metrics, seconds=time.perf_counter() - start_s)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    show_results(runs, info, summary)
    show_next(folder, info, out)
    return summary


def prepare_folder(out: Path) -> None:
    """Make an empty folder; what an earlier demo left is removed, anything else is not touched."""
    if out.exists() and not (out / _MARKER).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise DemoError(f"{out} exists and was not made by this demo; choose another folder with --out")
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / _MARKER).touch()


def train(out: Path) -> None:
    """Go from images to a zoo: a proxy's core-set, a policy search, three members, and what the planner needs."""
    console.rule("1. Train three members on scikit-learn's handwritten digits, into a zoo", align="left")
    run_command("run", "digits", "--out", out / "run", "--zoo", out / "zoo", program="cascade-train")


def read_test_images(folder: ImageFolder, out: Path) -> FolderImages:
    """Read the images that nothing was chosen on."""
    task = read_task(out / "zoo" / TASK)
    return read_images(folder, height=task.height, width=task.width, channels=task.channels)


def _images(out: Path) -> Path:
    return out / "run" / "images"


def plan(out: Path) -> None:
    """Plan the cascade, and beside it the largest member alone as a cascade of one stage."""
    console.rule("2. Plan", align="left")
    half = len(scan_image_folder(_images(out) / "calibration")) // 2
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


def show_next(test: ImageFolder, info: ModelInfo, out: Path) -> None:
    """Name the plot and the commands to go on with."""
    console.rule("5. Go on", align="left")
    pair = ["--url", "127.0.0.1:8001", "--model", TASK]
    cap = format_flops(deepest_policy(info).worst_case_flops / 2)
    console.print(
        f"The Pareto plot: {out / 'report' / 'pareto.png'}; all figures: {out / 'summary.json'}", soft_wrap=True
    )
    show_command("inspect", out / "repository" / TASK / "1")
    show_command("serve", out / "repository")
    show_command("infer", test.files[0], *pair, "--confidence-threshold", "0.99")
    show_command("evaluate", test.path, *pair, "--mode", "ensemble")
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
    except (DemoError, CascadeError, ZooError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""airbench's published program beside this project's recipe: the same images on the same GPU, run in turn.

Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv 2404.00498). The program is ``airbench94_muon.py`` of
KellerJordan/cifar10-airbench, from a checkout of one's own; none of it is here:

    python -m benchmarks.training.published PATH/airbench94_muon.py --data DATA --device cuda [--seeds 5] [--compile]

Seconds are those of training and of the test with six views: the program's by its own timer, which leaves out its
loading and what it evaluates after each epoch; this project's from images in memory to the accuracy. Both run once
before the first seed, unmeasured. All seeds see the same split; they differ in what each training draws.
"""

import argparse
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import IO

import torch

from benchmarks.training.experiment import EVIDENCE, OPEN, Arm, Experiment, Figures, arguments, run_experiment
from benchmarks.training.ladder import airbench_loop
from benchmarks.training.tasks import Setting, Task, add_setting, read_setting, train_and_judge
from training.data.images import LabelledImages
from training.members import MemberConfig

_ACCURACY, _SECONDS = "accuracy %", "training and test s"
_EPOCHS = 8
_NUMBER = re.compile(r"\d+\.\d+")
_BE_THE_PROGRAM = "--be-the-program"
_ROOT = Path(__file__).parents[2]


class Published:
    """The published program, kept running in a process of its own.

    Args:
        process: which was started by :func:`published`.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, seed: int) -> Figures:
        """Let it train once.

        Raises:
            RuntimeError: the program ended.
        """
        stdin, stdout = _pipes(self._process)
        stdin.write(f"{seed}\n")
        stdin.flush()
        answer = stdout.readline()
        if not answer:
            raise RuntimeError(f"the published program ended with exit code {self._process.wait()}")
        figures: Figures = json.loads(answer)
        return figures


@contextmanager
def published(program: Path, folder: Path, *, should_compile: bool) -> Iterator[Published]:
    """Start the program in a folder that holds its data, and end it with the context."""
    command = [sys.executable, "-m", "benchmarks.training.published", str(program.resolve()), _BE_THE_PROGRAM]
    command += ["--compile"] if should_compile else []
    # The program looks for its data where it is started, and this module lies elsewhere.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=folder, env=env) as process:
        try:
            yield Published(process)
        finally:
            _pipes(process)[0].close()


def write_images(task: Task, folder: Path) -> None:
    """Write images as the program reads them, ``cifar10/{train,test}.pt``."""
    (folder / "cifar10").mkdir(parents=True, exist_ok=True)
    for name, images in (("train", task.train), ("test", task.test)):
        torch.save(_as_the_program_has_them(images), folder / "cifar10" / f"{name}.pt")


def be_the_program(path: Path, *, should_compile: bool) -> None:
    """Run the program's own training for each seed that comes in on the standard input, until that ends."""
    answers = sys.stdout
    program = _load(path)
    with redirect_stdout(sys.stderr):
        model = program.CifarNet().cuda().to(memory_format=torch.channels_last)
        if should_compile:
            model.compile(mode="max-autotune")
        program.main("warmup", model)
    for line in sys.stdin:
        torch.manual_seed(int(line))
        with redirect_stdout(io.StringIO()) as printed:
            accuracy = program.main(0, model)
        # The last number of the last row is the timer's.
        seconds = float(_NUMBER.findall(printed.getvalue())[-1])
        print(json.dumps({_ACCURACY: 100 * accuracy, _SECONDS: seconds}), file=answers, flush=True)


def _load(path: Path) -> ModuleType:
    # It reads its own text from there.
    sys.argv = [str(path)]
    spec = importlib.util.spec_from_file_location("published_program", path)
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program


def _as_the_program_has_them(images: LabelledImages) -> dict[str, object]:
    return {
        "images": torch.as_tensor(images.images_BHWC),
        "labels": torch.as_tensor(images.labels_B),
        "classes": list(images.classes),
    }


def _pipes(process: "subprocess.Popen[str]") -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _experiment(setting: Setting, task: Task, program: Published, *, should_compile: bool) -> Experiment:
    loop = replace(airbench_loop(epochs=_EPOCHS, device=setting.device), compile=should_compile)
    model = MemberConfig(name="ours", architecture="airbench94_muon", loop=loop)

    def ours(seed: int) -> Figures:
        started_s = time.perf_counter()
        _, figures = train_and_judge(setting, task, replace(loop, seed=seed), model=model)
        return {_ACCURACY: figures[_ACCURACY], _SECONDS: time.perf_counter() - started_s}

    ours(0)
    return Experiment(
        name="published",
        title=f"airbench94 with Muon on {setting.name}",
        arms=[Arm(name="published program", run=program.run), Arm(name="this project's recipe", run=ours)],
        baseline="published program",
        ratios=(_SECONDS,),
        settings={
            **setting.describe(),
            "network": model.architecture,
            "epochs": _EPOCHS,
            "batch": loop.batch_size,
            "compile": should_compile,
        },
        standing=EVIDENCE if setting.train_images is None and setting.device != "cpu" else OPEN,
    )


def main() -> None:
    """Run the comparison as a command."""
    parser = arguments(__doc__)
    parser.add_argument("program", type=Path, help="airbench94_muon.py of a checkout")
    parser.add_argument("--compile", action="store_true", help="torch.compile for both")
    parser.add_argument(_BE_THE_PROGRAM, action="store_true", help=argparse.SUPPRESS)
    add_setting(parser)
    parser.set_defaults(task="cifar10-jpeg")
    options = parser.parse_args()
    if not options.program.is_file():
        sys.exit(f"program: {options.program} does not exist")
    if options.be_the_program:
        be_the_program(options.program, should_compile=options.compile)
        return
    setting = read_setting(options)
    task = setting.task(0)
    write_images(task, options.out / "published")
    with published(options.program, options.out / "published", should_compile=options.compile) as program:
        experiment = _experiment(setting, task, program, should_compile=options.compile)
        print(run_experiment(experiment, range(options.seeds), options.out))


if __name__ == "__main__":
    main()

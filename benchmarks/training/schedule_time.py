"""Process time of each data schedule beside that of training on everything, all trained side by side, a step about.

A shared machine takes up to half of its speed away for seconds at a time, and a training of seconds stands or falls by
it. Here one thread a schedule trains, one of them at a time: after each step the one goes on that has done the least of
what it has to, so that all of them spread over the same minutes, and what slows one slows all.

    python -m benchmarks.training.schedule_time [--task digits|cifar10-jpeg] [--train-images N] [--width W]
"""

import json
import statistics
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from benchmarks.training.data_schedules import SCHEDULES
from benchmarks.training.environment import describe
from benchmarks.training.experiment import arguments
from benchmarks.training.tasks import Setting, Task, add_setting, read_setting, use_one_thread
from training.data_schedule.build import make_data_schedule
from training.data_schedule.config import DataScheduleConfig
from training.members import build_member
from training.run import TrainingRun

_BASELINE = "all data"

Ratios = Mapping[str, tuple[float, float]]
"""Schedule → its evaluations and its processor seconds over those of training on everything."""


class PacedRun:
    """A training that takes a step when it is told to; hears of its own batches.

    Attributes:
        evaluations: images trained on so far.
        seconds: of processor time, of its thread, once it is done.
        is_done: it has come to its end.
        error: what it ended by, if not well.

    Args:
        setting: the network and how it is trained.
        task: the images.
        schedule: which of them, when.
        seed: draws weights and order.
    """

    def __init__(self, setting: Setting, task: Task, schedule: DataScheduleConfig, seed: int) -> None:
        loop = replace(setting.model.loop, data_schedule=schedule, seed=seed)
        module = build_member(replace(setting.model, loop=loop), task.train).module
        self._run = TrainingRun(module, task.train, loop, task.normalisation, device=setting.device, observers=[self])
        self._planned = sum(make_data_schedule(schedule, len(task.train), loop.epochs, None).planned_evaluations)
        self._may_step = threading.Semaphore(0)
        self._has_stepped = threading.Semaphore(0)
        self.evaluations = 0
        self.seconds = 0.0
        self.is_done = False
        self.error: BaseException | None = None

    @property
    def share(self) -> float:
        """What it has done of what it has to."""
        return self.evaluations / self._planned

    def train(self) -> None:
        """Train from start to end, a step each time that :meth:`step` is called; on a thread of its own."""
        self._may_step.acquire()
        began_s = time.thread_time()
        try:
            while self._run.epoch < self._run.config.epochs:
                self._run.run_epoch()
            self.seconds = time.thread_time() - began_s
        except BaseException as error:  # noqa: BLE001  # the thread's boundary: whoever let it step raises it
            self.error = error
        self.is_done = True
        self._has_stepped.release()

    def step(self) -> None:
        """Let it take one step, or come to its end."""
        self._may_step.release()
        self._has_stepped.acquire()
        if self.error is not None:
            raise self.error

    def observe(self, ids_B: Tensor, losses_B: Tensor, correct_B: Tensor) -> None:  # noqa: ARG002  # as observers hear
        """Wait, after a step, for the next turn; see ``training.run.BatchObserver``."""
        self.evaluations += len(ids_B)
        self._has_stepped.release()
        self._may_step.acquire()


def run_side_by_side(runs: Sequence[PacedRun]) -> None:
    """Train all, the one that is furthest behind first."""
    for run in runs:
        # Those that wait for a turn that never comes must not keep a broken experiment alive.
        threading.Thread(target=run.train, daemon=True).start()
    while going := [run for run in runs if not run.is_done]:
        min(going, key=lambda run: run.share).step()


def measure(setting: Setting, seed: int) -> Ratios:
    """Train by every schedule on the same images from the same weights; one seed."""
    task = setting.task(seed)
    runs = {name: PacedRun(setting, task, schedule, seed) for name, schedule in SCHEDULES.items()}
    run_side_by_side(list(runs.values()))
    whole = runs[_BASELINE]
    return {name: (run.evaluations / whole.evaluations, run.seconds / whole.seconds) for name, run in runs.items()}


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
    table = f"n = {options.seeds} seeds; {setting.describe()}. {describe()}.\n\n{make_table(measured)}"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"schedule_time_{setting.name}.md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()

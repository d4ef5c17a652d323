"""Speed of training steps: what feeding images takes of them, and images a second of each network.

    python -m benchmarks.training.speed [--device cpu] [--images N] [--batch 512] [--repeats 5] [--threads N]
        [--only input|networks]

Two tables: ResNet-9 of width 16 under nothing, under crop, flip and Cutout, and under a PBA policy of all ops at half
their range with these behind it; and the step of each network under crop and flip. Images are random 32 x 32 x 3.

Each repeat is a process of its own, so that peak memory is that arm's alone, and trains two epochs, of which the first
warms up. Arms are interleaved, so that a machine that slows down slows all of them. Figures are medians, with the least
and the most.

NOTE: on a GPU the loop's watch sees only how long images are asked for, not made; there the share of feeding images is
what the column beside tells: the time over that of the arm without augmentation.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

import numpy as np
import torch
from pydantic import JsonValue

from benchmarks.training.environment import describe
from model_zoo.registry import build_model
from training.augment.config import AugmentConfig, Flip, PolicyKind
from training.augment.ops import initial_policy
from training.augment.policy import PolicyEntry, PolicySchedule, Segment
from training.data.images import LabelledImages
from training.inputs import Normalisation
from training.loop_config import LoopConfig, Precision
from training.run import TrainingRun
from training.tricks import airbench_muon

_NORMALISATION = Normalisation(mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616))
_CROP = AugmentConfig(pad_px=4, flip=Flip.RANDOM)
_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One thing that is timed.

    Attributes:
        name: in the table.
        architecture, arguments: of the network.
        loop: how it is trained; its epochs are those that are timed and one before.
    """

    name: str
    architecture: str
    arguments: Mapping[str, JsonValue]
    loop: LoopConfig


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What one process measured.

    Attributes:
        steps: of the timed epoch.
        images: of the timed epoch.
        seconds, process_seconds, input_seconds: of the timed epoch; see ``EpochReport``.
        peak_memory_bytes: of all epochs; see ``EpochReport``.
    """

    steps: int
    images: int
    seconds: float
    process_seconds: float
    input_seconds: float
    peak_memory_bytes: int


def input_arms(loop: LoopConfig) -> list[Arm]:
    """Give ResNet-9 of width 16 under ever more augmentation."""
    middle = tuple(PolicyEntry(op=entry.op, probability=5, magnitude=5) for entry in initial_policy())
    crop = replace(_CROP, cutout_px=16)
    schedule = PolicySchedule(segments=(Segment(epochs=1, policy=middle),))
    augments = {
        "none": AugmentConfig(),
        "crop, flip, Cutout": crop,
        "PBA, crop, flip, Cutout": replace(crop, policy=PolicyKind.SCHEDULE, policy_schedule=schedule),
    }
    return [
        Arm(name=name, architecture="resnet9", arguments={"width": 16}, loop=replace(loop, augment=augment))
        for name, augment in augments.items()
    ]


def network_arms(loop: LoopConfig) -> list[Arm]:
    """Give ResNet-9 of four widths by SGD, and airbench94 by Muon."""
    cropped = replace(loop, augment=_CROP)
    arms = [
        Arm(name=f"resnet9, width {width}", architecture="resnet9", arguments={"width": width}, loop=cropped)
        for width in (8, 16, 32, 64)
    ]
    optim, lr = airbench_muon(batch_size=loop.batch_size, epochs=3)
    muon = replace(cropped, optim=optim, lr=lr)
    return [*arms, Arm(name="airbench94, Muon", architecture="airbench94_muon", arguments={}, loop=muon)]


def base_loop(batch_size: int, device: str) -> LoopConfig:
    """Give what all arms share: on a GPU bfloat16 with channels last, as fast training has it."""
    is_cuda = device.startswith("cuda")
    return LoopConfig(
        epochs=2,
        batch_size=batch_size,
        precision=Precision.BF16 if is_cuda else Precision.FP32,
        channels_last=is_cuda,
    )


def measure(arm: Arm, images: int, device: str, threads: int) -> Timing:
    """Train an arm for its epochs, and time the last one; to be called in a process of its own."""
    torch.set_num_threads(threads)
    generator = np.random.default_rng(0)
    data = LabelledImages(
        images_BHWC=generator.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8),
        labels_B=generator.integers(0, 10, images),
        ids_B=np.arange(images),
        classes=tuple("abcdefghij"),
    )
    model = build_model(arm.architecture, classes=10, channels=3, arguments=arm.arguments, seed=0).module
    run = TrainingRun(model, data, arm.loop, _NORMALISATION, device=device)
    before = after = run.run_epoch()
    while run.epoch < arm.loop.epochs:
        before, after = after, run.run_epoch()
    return Timing(
        steps=-(-images // arm.loop.batch_size),
        images=after.evaluations - before.evaluations,
        seconds=after.seconds - before.seconds,
        process_seconds=after.process_seconds - before.process_seconds,
        input_seconds=after.input_seconds - before.input_seconds,
        peak_memory_bytes=after.peak_memory_bytes,
    )


def measure_all(
    arms: Sequence[Arm], *, repeats: int, images: int, device: str, threads: int
) -> dict[str, list[Timing]]:
    """Measure arms in turn, as often as asked for, each time in a new process."""
    timings: dict[str, list[Timing]] = {arm.name: [] for arm in arms}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        for _ in range(repeats):
            for arm in arms:
                timings[arm.name].append(processes.submit(measure, arm, images, device, threads).result())
    return timings


_Column = Callable[[Timing], float]

COLUMNS: Mapping[str, _Column] = {
    "images/s": lambda timing: timing.images / timing.seconds,
    "ms a step": lambda timing: 1e3 * timing.seconds / timing.steps,
    "process ms a step": lambda timing: 1e3 * timing.process_seconds / timing.steps,
    "peak MiB": lambda timing: timing.peak_memory_bytes / _MIB,
}
"""Heading → figure of a repeat."""


def make_table(timings: Mapping[str, Sequence[Timing]], *, baseline: str | None = None) -> str:
    """Write medians as Markdown, each with the least and the most.

    Args:
        timings: arm → repeats.
        baseline: arm without augmentation; with it, the share that feeding images takes is told in two ways.
    """
    columns = dict(COLUMNS)
    if baseline is not None:
        columns["input %, watched"] = lambda timing: 100 * timing.input_seconds / timing.seconds
    head = ["arm", *columns, *([f"time over `{baseline}`, %"] if baseline is not None else [])]
    lines = [_line(head), _line(["---"] * len(head))]
    for name, repeats in timings.items():
        cells = [_spread([figure(timing) for timing in repeats]) for figure in columns.values()]
        if baseline is not None:
            pairs = zip(repeats, timings[baseline], strict=True)
            cells.append(_spread([100 * (timing.seconds / base.seconds - 1) for timing, base in pairs]))
        lines.append(_line([name, *cells]))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float]) -> str:
    return f"{_number(statistics.median(values))} ({_number(min(values))} to {_number(max(values))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def main() -> None:
    """Run the benchmark as a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="where to train (default: %(default)s)")
    parser.add_argument("--images", type=int, help="of an epoch (default: 1024, on a GPU 50000)")
    parser.add_argument("--batch", type=int, default=512, help="images a step (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="processes an arm (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (default: %(default)s)")
    parser.add_argument("--only", choices=("input", "networks"), help="one table (default: both)")
    options = parser.parse_args()
    images = options.images or (1024 if options.device == "cpu" else 50_000)
    torch.set_num_threads(options.threads)
    loop = base_loop(options.batch, options.device)
    tables = {
        "input": ("Feeding ResNet-9 of width 16", input_arms(loop), "none"),
        "networks": ("Training steps", network_arms(loop), None),
    }
    for key, (title, arms, baseline) in tables.items():
        if options.only in (None, key):
            timings = measure_all(
                arms, repeats=options.repeats, images=images, device=options.device, threads=options.threads
            )
            print(
                f"### {title}\n\n`python -m benchmarks.training.speed --only {key} --device {options.device} --images "
                f"{images} --batch {options.batch} --repeats {options.repeats} --threads {options.threads}`\n\n"
                f"n = {options.repeats} processes an arm, interleaved; median (least to most). {describe()}; "
                f"{loop.precision.value}{', channels last' if loop.channels_last else ''}.\n\n"
                f"{make_table(timings, baseline=baseline)}"
            )


if __name__ == "__main__":
    main()

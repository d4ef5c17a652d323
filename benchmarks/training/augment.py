"""Images a second of each part of the augmentation, and the time of each colour kernel beside torchvision's.

    python -m benchmarks.training.augment [--images 10000] [--repeats 7] [--threads 1 2] [--device cpu]

Median and range over repeats; arms are interleaved, so that a machine that slows down slows all of them. Time of the
process beside wall time tells what another load on the machine took.

NOTE: with two threads on a machine that is busy with other work, threads wait for each other at every kernel: rates
fall below those of one thread.
"""
# Shapes: B images, C channels, H height, W width.

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from benchmarks.training.environment import describe
from training.augment import colour, geometry
from training.augment.augmentation import Augmentation, Moment
from training.augment.build import make_augmentation, policy_augmentation
from training.augment.config import AugmentConfig, Flip, PolicyKind
from training.augment.ops import initial_policy
from training.augment.policy import MAX_MAGNITUDE, PolicyEntry

_FILL = (125, 122, 113)
_CROPS = AugmentConfig(pad_px=4, flip=Flip.ALTERNATING, cutout_px=16)
_PLAIN = AugmentConfig()


def _arms() -> dict[str, Augmentation]:
    middle = tuple(PolicyEntry(op=entry.op, probability=5, magnitude=4) for entry in initial_policy())
    spread = tuple(
        PolicyEntry(op=entry.op, probability=1 + place % 10, magnitude=3 * place % (MAX_MAGNITUDE + 1))
        for place, entry in enumerate(initial_policy())
    )
    return {
        "PBA, all probabilities 0.5, magnitudes 4": policy_augmentation(middle, _PLAIN, _FILL),
        "PBA, all magnitudes": policy_augmentation(spread, _PLAIN, _FILL),
        "PBA, all magnitudes, then pad 4, crop, flip, Cutout 16": policy_augmentation(spread, _CROPS, _FILL),
        "RandAugment": make_augmentation(replace(_PLAIN, policy=PolicyKind.RANDAUGMENT), _FILL),
        "TrivialAugment": make_augmentation(replace(_PLAIN, policy=PolicyKind.TRIVIALAUGMENT), _FILL),
        "AutoAugment": make_augmentation(replace(_PLAIN, policy=PolicyKind.AUTOAUGMENT), _FILL),
        "reflect-pad 4, crop, flip": make_augmentation(replace(_CROPS, cutout_px=0), _FILL),
        "Cutout 16": make_augmentation(AugmentConfig(cutout_px=16), _FILL),
    }


def _kernels() -> dict[str, tuple[Callable[[Tensor], object], Callable[[Tensor], object]]]:
    fill_C, fill = torch.tensor(_FILL, dtype=torch.uint8), [float(value) for value in _FILL]
    return {
        "Brightness": (lambda x: colour.brighten(x, 1.3), lambda x: functional.adjust_brightness(x, 1.3)),
        "Color": (lambda x: colour.saturate(x, 1.3), lambda x: functional.adjust_saturation(x, 1.3)),
        "Contrast": (lambda x: colour.contrast(x, 1.3), lambda x: functional.adjust_contrast(x, 1.3)),
        "Sharpness": (lambda x: colour.sharpen(x, 1.3), lambda x: functional.adjust_sharpness(x, 1.3)),
        "Solarize": (lambda x: colour.solarize(x, 128), lambda x: functional.solarize(x, 128)),
        "Rotate": (
            lambda x: geometry.rotate(x, 12.0, fill_C.to(x.device)),
            lambda x: functional.rotate(x, 12.0, fill=fill),
        ),
    }


def _measure(
    arms: Mapping[str, Callable[[], object]], repeats: int, synchronise: Callable[[], object]
) -> dict[str, list[tuple[float, float]]]:
    """Give wall and process seconds of each arm's repeats; the first round warms up and is left out."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for _ in range(repeats + 1):
        for name, run in arms.items():
            synchronise()
            wall, process = time.perf_counter(), time.process_time()
            run()
            synchronise()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - process))
    return {name: runs[1:] for name, runs in seconds.items()}


def _print_rates(seconds: Mapping[str, Sequence[tuple[float, float]]], images: int) -> None:
    print("| augmentation | images/s, median (least to most) | process µs an image |\n| --- | --- | --- |")
    for name, runs in seconds.items():
        rates = [images / wall for wall, _ in runs]
        process = statistics.median(process for _, process in runs)
        print(
            f"| {name} | {statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
            f" | {1e6 * process / images:.1f} |"
        )


def _print_kernels(seconds: Mapping[str, Sequence[tuple[float, float]]], images: int) -> None:
    print("| kernel | process µs an image | torchvision's |\n| --- | --- | --- |")
    medians = {name: 1e6 * statistics.median(process for _, process in runs) / images for name, runs in seconds.items()}
    for name in _kernels():
        print(f"| {name} | {medians[f'{name}, ours']:.1f} | {medians[f'{name}, theirs']:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, help="of 32 x 32 x 3, a call (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="after one to warm up (default: %(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of torch (default: 1 2)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    images_BCHW = torch.randint(0, 256, (options.images, 3, 32, 32), dtype=torch.uint8, generator=generator)
    images_BCHW, ids_B = images_BCHW.to(options.device), torch.arange(options.images, device=options.device)
    synchronise = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    moment = Moment(epoch=0, epochs=1)
    arms = {
        name: partial(augmentation, images_BCHW, ids_B, moment, generator) for name, augmentation in _arms().items()
    }
    group_BCHW = images_BCHW[:256]
    pairs = {
        f"{name}, {whose}": partial(kernel, group_BCHW)
        for name, kernels in _kernels().items()
        for whose, kernel in zip(("ours", "theirs"), kernels, strict=True)
    }
    print(f"{describe()}; {options.images:,} images of 32 x 32 x 3 a call, n = {options.repeats} repeats\n")
    for threads in options.threads:
        torch.set_num_threads(threads)
        print(f"{threads} threads, {options.device}:\n")
        _print_rates(_measure(arms, options.repeats, synchronise), options.images)
        print()
    torch.set_num_threads(1)
    print(f"One thread, groups of {len(group_BCHW)} images, {options.device}:\n")
    _print_kernels(_measure(pairs, options.repeats, synchronise), len(group_BCHW))


if __name__ == "__main__":
    main()

"""What the experiments train on: digits, or a part of CIFAR-10-JPEG; and one training with its figures."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from pydantic import JsonValue

from training.augment.config import AugmentConfig, Flip
from training.data.data_set import DataSet
from training.data.digits import load_digits
from training.data.images import LabelledImages
from training.data.splits import SplitConfig, split
from training.data.statistics import channel_statistics
from training.data.torchvision_sets import TorchvisionSource
from training.evaluation import evaluate
from training.inputs import Normalisation
from training.loop_config import LoopConfig
from training.lr import OneCycle
from training.members import MemberConfig, TrainedMember, train_member
from training.run import BatchObserver

DIGITS_TEST = 600


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """Images to train on and to judge by, disjoint; drawn anew for each seed.

    Attributes:
        train, test: the images.
        normalisation: of the training images.
    """

    train: LabelledImages
    test: LabelledImages
    normalisation: Normalisation


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """A data set, the network that is trained on it, and how.

    Attributes:
        name: ``digits`` or ``cifar10-jpeg``.
        model: the target.
        proxy: a cheaper one.
        data: folder of CIFAR-10-JPEG; None for digits.
        train_images: how many of CIFAR-10-JPEG; None takes all.
        device: where to train.
    """

    name: str
    model: MemberConfig
    proxy: MemberConfig
    data: Path | None = None
    train_images: int | None = None
    device: str = "cpu"

    def task(self, seed: int) -> Task:
        """Draw the parts of a seed."""
        return _digits_task(seed) if self.data is None else _cifar_task(self.data, self.train_images, seed)

    def describe(self) -> dict[str, object]:
        """Give what the figures depend on."""
        loop = self.model.loop
        return {
            "data": self.name,
            "train images": self.train_images or "all",
            "network": f"{self.model.architecture} {dict(self.model.arguments) or ''}".strip(),
            "epochs": loop.epochs,
            "batch": loop.batch_size,
            "device": self.device,
        }


def add_setting(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a setting."""
    parser.add_argument("--task", choices=("digits", "cifar10-jpeg"), default="digits")
    default = os.environ.get("CASCADE_SERVE_DATA")
    archive = None if default is None else Path(default) / "cifar10-jpeg-train.tar.gz"
    parser.add_argument("--data", type=Path, default=archive, help="folder or archive of CIFAR-10-JPEG's train part")
    parser.add_argument("--train-images", type=int, help="train on so many of them (default: all)")
    parser.add_argument("--width", type=int, default=8, help="of ResNet-9 (default: %(default)s)")
    parser.add_argument("--proxy", help="architecture of the proxy (default: digits_cnn_m; ResNet-9 of half the width)")
    parser.add_argument(
        "--proxy-epochs",
        type=int,
        help="of the proxy (default: a quarter of the target's on digits, half on CIFAR-10-JPEG)",
    )
    parser.add_argument("--epochs", type=int, help="of the target (default: 32 on digits, 10 on CIFAR-10-JPEG)")


def read_setting(options: argparse.Namespace) -> Setting:
    """Build the setting that was asked for."""
    setting = _find_setting(options)
    proxy = setting.proxy
    if options.proxy is not None:
        proxy = replace(proxy, architecture=options.proxy, arguments={})
    if options.proxy_epochs is not None:
        proxy = replace(proxy, loop=replace(proxy.loop, epochs=options.proxy_epochs))
    return replace(setting, proxy=proxy)


def _find_setting(options: argparse.Namespace) -> Setting:
    if options.task == "digits":
        return digits_setting(options.epochs or 32, options.device)
    if options.data is None:
        raise SystemExit("cifar10-jpeg needs --data, or CASCADE_SERVE_DATA")
    return cifar_setting(options.data, options.train_images, options.width, options.epochs or 10, options.device)


def digits_setting(epochs: int, device: str) -> Setting:
    """Give scikit-learn's digits with the demo's largest network, and the middle one for a quarter as long as proxy."""
    augment = AugmentConfig(pad_px=1, pad_mode="constant", fill=(0,))
    loop = LoopConfig(epochs=epochs, lr=OneCycle(peak_lr=0.1), label_smoothing=0.05, augment=augment)
    return Setting(
        name="digits",
        model=MemberConfig(name="target", architecture="digits_cnn_l", loop=loop),
        proxy=MemberConfig(name="proxy", architecture="digits_cnn_m", loop=replace(loop, epochs=max(2, epochs // 4))),
        device=device,
    )


def cifar_setting(data: Path, train_images: int | None, width: int, epochs: int, device: str) -> Setting:
    """Give CIFAR-10-JPEG with a ResNet-9, and one of half its width for half as long as proxy."""
    loop = LoopConfig(
        epochs=epochs,
        batch_size=128 if device == "cpu" else 512,
        lr=OneCycle(peak_lr=0.2 if device == "cpu" else 0.4, warmup_share=0.2),
        augment=AugmentConfig(pad_px=4, flip=Flip.RANDOM, cutout_px=8),
        label_smoothing=0.1,
        channels_last=True,
    )
    proxy_loop = replace(loop, epochs=max(2, epochs // 2))
    return Setting(
        name="cifar10-jpeg",
        model=resnet9("target", width, loop),
        proxy=resnet9("proxy", max(2, width // 2), proxy_loop),
        data=data,
        train_images=train_images,
        device=device,
    )


def resnet9(name: str, width: int, loop: LoopConfig, **arguments: JsonValue) -> MemberConfig:
    """Give a ResNet-9 of some width."""
    return MemberConfig(name=name, architecture="resnet9", arguments={"width": width, **arguments}, loop=loop)


def train_and_judge(
    setting: Setting,
    task: Task,
    loop: LoopConfig,
    *,
    train: LabelledImages | None = None,
    model: MemberConfig | None = None,
    observers: Sequence[BatchObserver] = (),
) -> tuple[TrainedMember, Mapping[str, float]]:
    """Train the setting's network, or another, and judge it on the task's test images.

    Returns:
        the trained network; accuracy in per cent, evaluations, wall and process seconds.
    """
    config = replace(model or setting.model, loop=loop)
    data = task.train if train is None else train
    member = train_member(config, data, task.normalisation, device=setting.device, observers=observers)
    found = evaluate(member.model, task.test, task.normalisation, device=setting.device, tta=loop.tta)
    return member, {
        "accuracy %": 100 * found.top1,
        "evaluations": member.result.evaluations,
        "process s": member.result.process_seconds,
        "wall s": member.result.seconds,
    }


def use_one_thread() -> None:
    """Keep torch to one thread: networks this small lose more in handing work over than a second one wins."""
    torch.set_num_threads(1)


def _digits_task(seed: int) -> Task:
    data = load_digits()
    # The calibration part is not used here; one row is its least size.
    parts = split(data, SplitConfig(calibration=1, test=DIGITS_TEST, seed=seed))
    return _make_task(parts["train"], parts["test"])


def _cifar_task(folder: Path, train_images: int | None, seed: int) -> Task:
    data = _load_cifar(folder)
    size = len(data.train)
    kept = size - 5000 if train_images is None else train_images
    parts = split(
        data.train, SplitConfig(policy_validation=0, calibration=size - kept - 5000 or 1, test=5000, seed=seed)
    )
    return _make_task(parts["train"], parts["test"])


@lru_cache(maxsize=1)
def _load_cifar(folder: Path) -> DataSet:
    return TorchvisionSource(kind="cifar10").load(folder)


def _make_task(train: LabelledImages, test: LabelledImages) -> Task:
    statistics = channel_statistics(train.images_BHWC)
    return Task(train=train, test=test, normalisation=statistics.normalisation)

"""The training loop: one story from images to trained weights, seeded, with a line of log an epoch."""
# Shapes: B rows, C channels, H height, W width, K classes.

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.augment.shift import shift_randomly
from training.data.images import LabelledImages
from training.errors import DataError, DivergedError
from training.inputs import Normalisation, normalise, to_device
from training.optim import OptimConfig, make_optimizer


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How a model is trained.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step at most; an epoch is cut into equal batches.
        optim: optimiser and learning rate.
        label_smoothing: share of the target that is spread over all classes (Szegedy et al., arXiv 1512.00567).
        max_shift_px: each image is moved by up to so many pixels.
        normalisation: of the pixels.
        seed: of shuffling, augmentation and dropout.
    """

    epochs: int = 20
    batch_size: int = 64
    optim: OptimConfig = field(default_factory=OptimConfig)
    label_smoothing: float = 0.0
    max_shift_px: int = 0
    normalisation: Normalisation = field(default_factory=Normalisation)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("max_shift_px", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: got {getattr(self, name)}; must be at least {least}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing: got {self.label_smoothing}; must be at least 0 and under 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochReport:
    """What an epoch came to.

    Attributes:
        epoch: from 1.
        epochs: planned.
        loss: mean over the epoch's images, with label smoothing and augmentation.
        accuracy: share of its images that were right when they were trained on.
        lr: learning rate that the next step would have.
        evaluations: single images trained on since the start.
        seconds: since the start.
    """

    epoch: int
    epochs: int
    loss: float
    accuracy: float
    lr: float
    evaluations: int
    seconds: float


Progress = Callable[[EpochReport], None]
"""Called after each epoch."""


def train(
    model: nn.Module,
    data: LabelledImages,
    config: LoopConfig,
    *,
    device: str = "cpu",
    log: Path | None = None,
    progress: Progress | None = None,
) -> tuple[EpochReport, ...]:
    """Train a model in place.

    Args:
        model: takes normalised float32 [B, C, H, W], gives logits [B, K]; it is moved to ``device``.
        data: training images.
        config: how.
        device: where, such as ``cpu`` or ``cuda``.
        log: one JSON line an epoch is appended to this file.
        progress: called after each epoch.

    Returns:
        one report an epoch.

    Raises:
        DataError: there are no images, or they have other channels than the normalisation.
        DivergedError: a loss was not finite; names the step. The weights are then of no use.
    """
    _check(data, config)
    images_NCHW = to_device(data.images_BHWC, device)
    labels_N = torch.from_numpy(data.labels_B).to(device)
    steps = math.ceil(len(data) / config.batch_size)
    optimizer, schedule = make_optimizer(model.to(device).parameters(), config.optim, config.epochs * steps)
    generator = torch.Generator().manual_seed(config.seed)
    start_s = time.perf_counter()
    reports: list[EpochReport] = []
    # Dropout draws from the global generators: they are seeded here, and given back as they were.
    with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
        torch.manual_seed(config.seed)
        model.train()
        for epoch in range(1, config.epochs + 1):
            losses: list[Tensor] = []
            correct: list[Tensor] = []
            for rows_B in torch.randperm(len(data), generator=generator).to(device).tensor_split(steps):
                shifted_BCHW = shift_randomly(images_NCHW[rows_B], config.max_shift_px, generator)
                logits_BK = model(normalise(shifted_BCHW, config.normalisation))
                loss = functional.cross_entropy(logits_BK, labels_N[rows_B], label_smoothing=config.label_smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.detach())
                correct.append((logits_BK.detach().argmax(dim=1) == labels_N[rows_B]).sum())
            report = EpochReport(
                epoch=epoch,
                epochs=config.epochs,
                loss=_mean_loss(torch.stack(losses), epoch, config),
                accuracy=int(torch.stack(correct).sum()) / len(data),
                lr=float(schedule.get_last_lr()[0]),
                evaluations=epoch * len(data),
                seconds=time.perf_counter() - start_s,
            )
            reports.append(report)
            _tell(report, log, progress)
    model.eval()
    return tuple(reports)


def _check(data: LabelledImages, config: LoopConfig) -> None:
    channels = len(config.normalisation.mean)
    if len(data) == 0 or data.images_BHWC.shape[3] != channels:
        raise DataError(f"images: got {list(data.images_BHWC.shape)}; must be at least one, with {channels} channels")


def _mean_loss(losses_S: Tensor, epoch: int, config: LoopConfig) -> float:
    """Average an epoch's losses (S steps), and stop at the first that is not finite.

    Looked at once an epoch, because asking at each step would make a GPU wait for it.
    """
    broken = torch.nonzero(~torch.isfinite(losses_S))
    if len(broken):
        position = int(broken[0])
        raise DivergedError(
            step=(epoch - 1) * len(losses_S) + position + 1,
            epoch=epoch,
            loss=float(losses_S[position]),
            peak_lr=config.optim.peak_lr,
        )
    return float(losses_S.mean())


def _tell(report: EpochReport, log: Path | None, progress: Progress | None) -> None:
    if log is not None:
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(report)) + "\n")
    if progress is not None:
        progress(report)

"""A model in training, an epoch at a time: choose, augment, step, tell; resumable to the bit."""
# Shapes: N training images, B rows of a batch, C channels, H height, W width.

import copy
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from cascade_serve.core.arrays import FloatArray
from training.augment.augmentation import Augmentation, Moment
from training.augment.build import make_augmentation
from training.batches import Stopwatch, iterate_batches
from training.data.device import hold_on_device
from training.data.images import LabelledImages
from training.data_schedule.build import make_data_schedule
from training.data_schedule.protocol import EpochPlan
from training.errors import CheckpointError, DataError, DivergedError
from training.inputs import Normalisation
from training.loop_config import LoopConfig
from training.randomness import Randomness
from training.reports import EpochReport
from training.steps import Batch, StepOutcome, Stepper
from training.whitening import apply_whitening


class BatchObserver(Protocol):
    """Hears of each trained batch; one that also has ``state_dict`` and ``load_state_dict`` is resumed with the run."""

    def observe(self, ids_B: Tensor, losses_B: Tensor, correct_B: Tensor) -> None:
        """Hear of a batch, on the device.

        Args:
            ids_B: int64 [B], numbers in the whole data set.
            losses_B: float32 [B], before the step, unweighted, with label smoothing and augmentation.
            correct_B: bool [B], before the step.
        """
        ...


@runtime_checkable
class _Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> object: ...


@dataclass(kw_only=True)
class _Totals:
    """Since the run's start."""

    epochs: int = 0
    steps: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    process_seconds: float = 0.0
    input_seconds: float = 0.0
    peak_memory_bytes: int = 0


@dataclass(kw_only=True)
class _Tally:
    """Of one epoch; what lies on the device is looked at when the epoch is done, so that no step waits for it."""

    rows: int = 0
    losses: list[Tensor] = field(default_factory=list)
    correct: list[Tensor] = field(default_factory=list)

    def add(self, batch: Batch, outcome: StepOutcome) -> None:
        self.rows += len(batch)
        self.losses.append(outcome.losses_B.sum())
        self.correct.append(outcome.correct_B.sum())


class TrainingRun:
    """A model in training, an epoch at a time.

    Attributes:
        model: is trained in place, and moved to the device.
        config: how.
        device: where.

    Args:
        model: takes normalised float32 [B, C, H, W], gives logits [B, K]. A whitening layer is set from the data; other
            frozen parameters stay as they are.
        data: training images; they are copied to the device, whole, as uint8.
        config: how.
        normalisation: of the pixels; its mean also is the colour that augmentation fills gaps with.
        device: where, such as ``cpu`` or ``cuda``.
        scores_N: [N], just where the data schedule names a score: the highest are kept first.
        observers: hear of each trained batch.

    Raises:
        DataError: there are no images, they have other channels than the normalisation, the device has no room for
            them, or the data schedule does not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        data: LabelledImages,
        config: LoopConfig,
        normalisation: Normalisation,
        *,
        device: str = "cpu",
        scores_N: FloatArray | None = None,
        observers: Sequence[BatchObserver] = (),
    ) -> None:
        _check(data, normalisation)
        self.device = torch.device(device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.model = model.to(self.device)
        self.config = config
        self._normalisation = normalisation
        self._source = data
        self._data = hold_on_device(data, self.device)
        apply_whitening(self.model, data, normalisation)
        self._schedule = make_data_schedule(config.data_schedule, len(data), config.epochs, scores_N)
        self._augmentation = make_augmentation(config.augment, [round(255 * mean) for mean in normalisation.mean])
        self._step = Stepper(self.model, config, normalisation, self.device)
        self._randomness = Randomness(config.seed, self.device)
        self._observers = tuple(observers)
        self._totals = _Totals()

    @property
    def epoch(self) -> int:
        """Epochs done so far."""
        return self._totals.epochs

    def run_epoch(self, augmentation: Augmentation | None = None) -> EpochReport:
        """Train for one more epoch.

        Args:
            augmentation: takes the place of the configuration's, for this epoch.

        Returns:
            what it came to.

        Raises:
            DivergedError: a loss was not finite; names the step. The run is then of no use, until an earlier state is
                loaded.
            ValueError: all planned epochs are done.
        """
        if self.epoch >= self.config.epochs:
            raise ValueError(f"epoch: got {self.epoch + 1}; must be at most {self.config.epochs}, those planned")
        start_s, start_process_s = time.perf_counter(), time.process_time()
        input_watch, tally = Stopwatch(), _Tally()
        augment = self._augment(augmentation or self._augmentation)
        with self._randomness.in_force(), _fast_convolutions(self.device):
            self.model.train()
            with input_watch:
                plan = self._schedule.plan_epoch(self.epoch, self._randomness.order)
            for batch in iterate_batches(self._data, plan, self.config.batch_size, augment, input_watch):
                outcome = self._step(batch, self._position(plan, tally.rows + len(batch) / 2))
                self._tell(batch, outcome)
                tally.add(batch, outcome)
        loss, accuracy = self._read(tally)
        self._totals.epochs += 1
        self._totals.steps += len(tally.losses)
        self._totals.evaluations += tally.rows
        self._totals.seconds += time.perf_counter() - start_s
        self._totals.process_seconds += time.process_time() - start_process_s
        self._totals.input_seconds += input_watch.seconds
        self._totals.peak_memory_bytes = max(self._totals.peak_memory_bytes, _peak_memory_bytes(self.device))
        return self._report(loss, accuracy)

    def _augment(self, augmentation: Augmentation) -> "_Augmenter":
        moment = Moment(epoch=self.epoch, epochs=self.config.epochs)
        return _Augmenter(augmentation, moment, self._randomness.augmentation)

    def _position(self, plan: EpochPlan, rows: float) -> float:
        """Give the share of the planned examples that are trained on once ``rows`` of this epoch are.

        An epoch that trains on fewer images than planned walks through its share of the plan in larger strides, so
        that the learning rate ends where it should, whatever a schedule makes of the losses.
        """
        planned = self._schedule.planned_evaluations
        done = sum(planned[: self.epoch]) + planned[self.epoch] * rows / len(plan.rows_E)
        return done / sum(planned)

    def _tell(self, batch: Batch, outcome: StepOutcome) -> None:
        self._schedule.observe(batch.rows_B, outcome.losses_B)
        for observer in self._observers:
            observer.observe(batch.ids_B, outcome.losses_B, outcome.correct_B)

    def _read(self, tally: _Tally) -> tuple[float, float]:
        """Give mean loss and accuracy of an epoch, and stop at its first step whose loss is not finite."""
        losses_S = torch.stack(tally.losses).cpu()
        broken = torch.nonzero(~torch.isfinite(losses_S))
        if len(broken):
            position = int(broken[0])
            raise DivergedError(
                step=self._totals.steps + position + 1,
                epoch=self.epoch + 1,
                loss=float(losses_S[position]),
                peak_lr=self.config.lr.largest_lr,
            )
        return float(losses_S.double().sum()) / tally.rows, int(torch.stack(tally.correct).sum()) / tally.rows

    def _report(self, loss: float, accuracy: float) -> EpochReport:
        totals = self._totals
        return EpochReport(
            epoch=totals.epochs,
            epochs=self.config.epochs,
            loss=loss,
            accuracy=accuracy,
            lr=self._step.lr,
            evaluations=totals.evaluations,
            seconds=totals.seconds,
            process_seconds=totals.process_seconds,
            input_seconds=totals.input_seconds,
            peak_memory_bytes=totals.peak_memory_bytes,
        )

    def averaged_model(self) -> nn.Module:
        """Give the weights to use, in evaluation mode: a copy with their average, where one is kept; else the model."""
        return self._step.averaged_model()

    def state_dict(self) -> dict[str, Any]:
        """Give a snapshot of everything that a resumed run needs: tensors and plain values only.

        Later training doesn't change it. It can be loaded into another run of the same configuration and data, which
        then goes on exactly like this one.
        """
        return copy.deepcopy(
            {
                "identity": self._identity,
                "totals": asdict(self._totals),
                "model": dict(self.model.state_dict()),
                "step": self._step.state_dict(),
                "schedule": self._schedule.state_dict(),
                "randomness": self._randomness.state_dict(),
                "observers": [
                    observer.state_dict() if isinstance(observer, _Stateful) else None for observer in self._observers
                ],
            }
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a snapshot; the snapshot itself is not changed by what follows.

        Raises:
            CheckpointError: it is of another configuration, normalisation or data, or of other observers.
        """
        self._check_identity(state["identity"])
        # Optimisers keep the very tensors that they are given.
        state = copy.deepcopy(dict(state))
        self._totals = _Totals(**state["totals"])
        self.model.load_state_dict(state["model"])
        self._step.load_state_dict(state["step"])
        self._schedule.load_state_dict(state["schedule"])
        self._randomness.load_state_dict(state["randomness"])
        for observer, observer_state in zip(self._observers, state["observers"], strict=True):
            if isinstance(observer, _Stateful):
                observer.load_state_dict(observer_state)

    @cached_property
    def _identity(self) -> dict[str, str]:
        """Tell what a state belongs to, field by field."""
        return {
            **{entry.name: repr(getattr(self.config, entry.name)) for entry in fields(self.config)},
            "normalisation": repr(self._normalisation),
            "data_sha256": self._source.sha256,
            "observers": repr([type(observer).__name__ for observer in self._observers]),
        }

    def _check_identity(self, other: Mapping[str, str]) -> None:
        for name, ours in self._identity.items():
            if other.get(name) != ours:
                raise CheckpointError(
                    f"{name}: got {other.get(name)} in the checkpoint; must be {ours}, as in this run"
                )


@dataclass(frozen=True, slots=True)
class _Augmenter:
    """An augmentation at one moment of the run."""

    augmentation: Augmentation
    moment: Moment
    generator: torch.Generator

    def __call__(self, images_BCHW: Tensor, ids_B: Tensor) -> Tensor:
        return self.augmentation(images_BCHW, ids_B, self.moment, self.generator)


def _check(data: LabelledImages, normalisation: Normalisation) -> None:
    channels = len(normalisation.mean)
    if len(data) == 0 or data.images_BHWC.shape[3] != channels:
        raise DataError(f"images: got {list(data.images_BHWC.shape)}; must be at least one, with {channels} channels")


def _fast_convolutions(device: torch.device) -> AbstractContextManager[None]:
    """Let a GPU try which of its algorithms is the fastest for each of the few batch sizes."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled,
        benchmark=True,
        deterministic=torch.backends.cudnn.deterministic,
        allow_tf32=torch.backends.cudnn.allow_tf32,
    )


def _peak_memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Kibibytes on Linux, bytes on macOS.
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes

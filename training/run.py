"""A model in training, an epoch at a time: choose, augment, step, tell; resumable to the bit."""
# Shapes: N training images, B rows of a batch, C channels, H height, W width.

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from cascade_serve.core.arrays import FloatArray
from training.augment.augmentation import Augmentation, Moment
from training.augment.build import make_augmentation
from training.batches import BatchSource
from training.data.device import DeviceImages, hold_on_device
from training.data.images import LabelledImages
from training.data_schedule.build import make_data_schedule
from training.data_schedule.protocol import EpochPlan
from training.errors import CheckpointError, DataError, DivergedError
from training.evaluation import check_images
from training.inputs import Normalisation
from training.loop_config import LoopConfig
from training.proxy_filter import ProxyFilter
from training.randomness import Randomness
from training.reports import EpochReport
from training.steps import Batch, Stepper, autocast_dtype
from training.tally import EpochTally, Totals
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
        held: ``data`` as they lie on the device already, where several runs share them; None copies them.

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
        held: DeviceImages | None = None,
    ) -> None:
        check_images(data, normalisation)
        self.device = torch.device(device)
        if self.device.type == "cuda":
            # Before that, torch's allocator knows no device by its number.
            torch.cuda.init()
            torch.cuda.reset_peak_memory_stats(self.device)
        self.model = model.to(self.device)
        self.config = config
        self._normalisation = normalisation
        self._data = data
        self._source = BatchSource(
            _held_images(held, data, self.device),
            normalisation,
            batch_size=config.batch_size,
            channels_last=config.channels_last,
        )
        apply_whitening(self.model, data, normalisation)
        self._schedule = make_data_schedule(config.data_schedule, len(data), config.epochs, scores_N)
        self._planned = self._schedule.planned_evaluations
        self._augmentation = make_augmentation(config.augment, [round(255 * mean) for mean in normalisation.mean])
        self._filter = self._make_filter()
        self._step = Stepper(self.model, config, self.device)
        self._randomness = Randomness(config.seed, self.device)
        self._observers = tuple(observers)
        self._totals = Totals()

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
            DivergedError: a loss was not finite, or the weights that the epoch leaves; names the step. The run is then
                of no use, until an earlier state is loaded.
            ValueError: all planned epochs are done.
        """
        if self.epoch >= self.config.epochs:
            raise ValueError(f"epoch: got {self.epoch + 1}; must be at most {self.config.epochs}, those planned")
        tally = EpochTally()
        with self._randomness.in_force():
            self._train(augmentation or self._augmentation, tally)
        self._check_losses(tally)
        self._check_weights(tally)
        self._totals.add(tally, self.device)
        if self._filter is not None:
            self._totals.proxy_evaluations = self._filter.evaluations
        return self._totals.report(self.config.epochs, loss=tally.loss, accuracy=tally.accuracy, lr=self._step.lr)

    def _train(self, augmentation: Augmentation, tally: EpochTally) -> None:
        """Walk through an epoch: choose its images, augment them, step batch by batch, and tell who listens."""
        self.model.train()
        moment = Moment(epoch=self.epoch, epochs=self.config.epochs)
        augment = _Augmenter(augmentation, moment, self._randomness.augmentation)
        with tally.input_watch:
            plan = self._schedule.plan_epoch(self.epoch, self._randomness.order)
        for batch in self._source.batches(plan, augment, tally.input_watch):
            position = self._position(plan, tally.presented + len(batch) / 2)
            with self._fast_convolutions(len(batch)):
                kept = self._filter_batch(batch, position)
                outcome = self._step(kept, position)
            self._schedule.observe(kept.rows_B, outcome.losses_B)
            for observer in self._observers:
                observer.observe(kept.ids_B, outcome.losses_B, outcome.correct_B)
            tally.add(outcome, presented=len(batch))

    def _check_losses(self, tally: EpochTally) -> None:
        """Stop at the epoch's first step whose loss is not finite; asked once an epoch, for a GPU must wait for it."""
        broken = tally.find_broken()
        if broken is not None:
            step, loss = broken
            raise DivergedError(
                step=self._totals.steps + step + 1,
                epoch=self.epoch + 1,
                loss=loss,
                peak_lr=self.config.lr.largest_lr,
            )
        if self._filter is not None and (batch := self._filter.find_broken()) is not None:
            raise DivergedError(
                step=batch,
                epoch=self.epoch + 1,
                loss=math.nan,
                peak_lr=self._filter.config.lr.largest_lr,
                is_proxys=True,
            )

    def _check_weights(self, tally: EpochTally) -> None:
        """Stop where the epoch's last step broke the weights, of which no loss tells: they must be kept nowhere."""
        trained = [(self.model, self.config.lr)]
        if self._filter is not None:
            trained.append((self._filter.proxy, self._filter.config.lr))
        for model, lr in trained:
            if not _is_finite(model):
                raise DivergedError(
                    step=self._totals.steps + tally.steps,
                    epoch=self.epoch + 1,
                    loss=None,
                    peak_lr=lr.largest_lr,
                    is_proxys=model is not self.model,
                )

    def _fast_convolutions(self, rows: int) -> AbstractContextManager[None]:
        """Let a GPU try which of its algorithms is the fastest for full batches; trying takes long, size by size."""
        if self.device.type != "cuda":
            return nullcontext()
        return torch.backends.cudnn.flags(
            enabled=torch.backends.cudnn.enabled,
            benchmark=rows == self.config.batch_size,
            deterministic=torch.backends.cudnn.deterministic,
            allow_tf32=torch.backends.cudnn.allow_tf32,
        )

    def _make_filter(self) -> ProxyFilter | None:
        if self.config.proxy_filter is None:
            return None
        return ProxyFilter(
            self.config.proxy_filter,
            self._data,
            self._normalisation,
            device=self.device,
            autocast_dtype=autocast_dtype(self.config.precision),
            channels_last=self.config.channels_last,
        )

    def _filter_batch(self, batch: Batch, position: float) -> Batch:
        """Leave to the model what the proxy finds hardest, where there is one."""
        if self._filter is None:
            return batch
        return batch.take(self._filter.keep(batch.inputs_BCHW, batch.labels_B, position))

    def _position(self, plan: EpochPlan, rows: float) -> float:
        """Give the share of the planned examples that are trained on once ``rows`` of this epoch are.

        An epoch that trains on fewer images than planned walks through its share of the plan in larger strides, so
        that the learning rate ends where it should, whatever a schedule makes of the losses.
        """
        planned = self._planned
        done = sum(planned[: self.epoch]) + planned[self.epoch] * rows / len(plan.rows_E)
        return done / sum(planned)

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
                "filter": None if self._filter is None else self._filter.state_dict(),
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
            CheckpointError: it is of another model, configuration, normalisation or data, or of other observers.
        """
        self._check_identity(state["identity"])
        # Optimisers keep the very tensors that they are given.
        state = copy.deepcopy(dict(state))
        self._totals = Totals(**state["totals"])
        self.model.load_state_dict(state["model"])
        self._step.load_state_dict(state["step"])
        if self._filter is not None:
            self._filter.load_state_dict(state["filter"])
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
            "model": _name_model(self.model),
            "normalisation": repr(self._normalisation),
            "data_sha256": self._data.sha256,
            "observers": repr([type(observer).__name__ for observer in self._observers]),
        }

    def _check_identity(self, other: Mapping[str, str]) -> None:
        for name, ours in self._identity.items():
            if other.get(name) != ours:
                raise CheckpointError(
                    f"{name}: got {other.get(name)} in the checkpoint; must be {ours}, as in this run; the checkpoint "
                    "was written under other settings, or by a version whose settings had other fields: go back to "
                    "those, or remove it to start anew"
                )


@dataclass(frozen=True, slots=True)
class _Augmenter:
    """An augmentation at one moment of the run."""

    augmentation: Augmentation
    moment: Moment
    generator: torch.Generator

    def __call__(self, images_BCHW: Tensor, ids_B: Tensor) -> Tensor:
        return self.augmentation(images_BCHW, ids_B, self.moment, self.generator)


def _name_model(model: nn.Module) -> str:
    """Name a model by its class, its size and its layers, since others may have weights of the same shapes."""
    layers = hashlib.sha256(repr(model).encode()).hexdigest()[:12]
    return f"{type(model).__name__} of {sum(map(Tensor.numel, model.parameters()))} parameters, layers {layers}"


def _is_finite(model: nn.Module) -> bool:
    """Tell whether all trained weights are finite; frozen ones and buffers may hold anything, such as a mask."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return bool(torch.stack([parameter.isfinite().all() for parameter in trained]).all())


def _held_images(held: DeviceImages | None, data: LabelledImages, device: torch.device) -> DeviceImages:
    if held is None:
        return hold_on_device(data, device)
    # With its index, which "cuda" lacks.
    there = torch.empty(0, device=device).device
    if held.device != there or len(held) != len(data):
        raise DataError(f"held: got {len(held)} images on {held.device}; must be {len(data)} on {there}")
    return held

"""One member of a committee, or a proxy for it: built and trained."""
# Shapes: N images.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import JsonValue
from torch import nn

from cascade_serve.core.arrays import FloatArray
from model_zoo.errors import CardError
from model_zoo.registry import BuiltModel, build_model, check_runs
from model_zoo.store import check_name
from training.data.images import LabelledImages
from training.data_schedule.config import format_data_schedule
from training.energy import EnergyMeter
from training.errors import DataError
from training.inputs import Normalisation
from training.loop import train
from training.loop_config import LoopConfig
from training.reports import Progress, TrainingResult
from training.run import BatchObserver
from training.run_record import json_sha256
from training.selection.methods import ScoreMeter
from training.selection.scoring import TrainedProxy
from training.selection.timing import PhaseSeconds
from training.settings import to_json


@dataclass(frozen=True, kw_only=True, slots=True)
class MemberConfig:
    """One member of a committee and how it is trained.

    Attributes:
        name: what it is called in the zoo.
        architecture: a name of ``model_zoo.registry``.
        arguments: of its builder.
        loop: how it is trained; its seed draws the weights too.
    """

    name: str
    architecture: str
    arguments: Mapping[str, JsonValue] = field(default_factory=dict)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        try:
            check_name("member", self.name)
        except CardError as error:
            raise ValueError(str(error)) from error


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainedMember:
    """What came of a member's training.

    Attributes:
        config: what was asked for.
        model: with the weights that count (their average where one is kept), in evaluation mode.
        normalisation: of its input.
        result: what the training told of itself.
        device: where it lies.
    """

    config: MemberConfig
    model: nn.Module
    normalisation: Normalisation
    result: TrainingResult
    device: str


def train_member(
    config: MemberConfig,
    data: LabelledImages,
    normalisation: Normalisation,
    *,
    device: str = "cpu",
    folder: Path | None = None,
    validation: LabelledImages | None = None,
    validate_every: int = 1,
    scores_N: FloatArray | None = None,
    observers: Sequence[BatchObserver] = (),
    progress: Progress | None = None,
    energy_meter: EnergyMeter | None = None,
    tensorboard: bool = False,
) -> TrainedMember:
    """Build a member with seeded random weights and train it.

    Args:
        config: which and how.
        data: N training images, square, of the architecture's channels.
        normalisation: of their pixels; the exported graph must use the same.
        device: where to train.
        folder: gets the training's logs and checkpoints, from which a killed training goes on; None keeps nothing.
        validation: unseen images for the curves; nothing is chosen by it.
        validate_every: epochs from one look at them to the next.
        scores_N: float32 [N], higher first, for a data schedule that is ordered by a score.
        observers: hear of each batch.
        progress: called after each epoch.
        energy_meter, tensorboard: as for ``training.loop.train``.

    Returns:
        the trained member.

    Raises:
        DataError: the images don't fit the architecture.
        DivergedError: the loss was not finite.
        CheckpointError, EnergyError, LogError: as for ``training.loop.train``.
        ZooError: the architecture can't be built.
    """
    built = build_member(config, data)
    result = train(
        built.module,
        data,
        config.loop,
        normalisation,
        device=device,
        folder=folder,
        validation=validation,
        validate_every=validate_every,
        scores_N=scores_N,
        observers=observers,
        progress=progress,
        energy_meter=energy_meter,
        tensorboard=tensorboard,
    )
    return TrainedMember(config=config, model=built.module, normalisation=normalisation, result=result, device=device)


def build_member(config: MemberConfig, data: LabelledImages) -> BuiltModel:
    """Build a member for some images, with weights drawn by its seed.

    Raises:
        DataError: the images are not square, or have other channels than the architecture takes.
        ZooError: the architecture can't be built, or can't run on images of that size.
    """
    _, height, width, channels = data.images_BHWC.shape
    if height != width:
        raise DataError(f"images: got {height}x{width} pixels; must be square")
    built = build_model(
        config.architecture,
        classes=len(data.classes),
        channels=channels,
        image_size=height,
        arguments=config.arguments,
        seed=config.loop.seed,
    )
    if built.preset.channels != channels:
        raise DataError(
            f"images: got {channels} channels; must be {built.preset.channels}, which {config.architecture} takes"
        )
    check_runs(built, height, width, channels)
    return built


@dataclass(frozen=True, kw_only=True, slots=True)
class MemberTrainer:
    """Trains a member's network as a proxy (``training.selection``).

    Attributes:
        config: the proxy; its loop's seed is replaced by the selection's.
        normalisation: of the images.
        device: where to train.
        folder: keeps checkpoints, from which a killed training goes on; None keeps nothing.
        progress: called after each epoch.
    """

    config: MemberConfig
    normalisation: Normalisation
    device: str = "cpu"
    folder: Path | None = None
    progress: Progress | None = None

    @property
    def description(self) -> Mapping[str, JsonValue]:
        """What is trained and how, as a subset's file and a member's card tell it.

        ``settings_sha256`` is of all of it, the seed left out, so that rounds by another proxy are never gone on with.
        """
        loop = self.config.loop
        settings: JsonValue = {
            "loop": to_json(replace(loop, seed=0)),
            "normalisation": to_json(self.normalisation),
        }
        return {
            "architecture": self.config.architecture,
            "arguments": dict(self.config.arguments),
            "epochs": loop.epochs,
            "batch_size": loop.batch_size,
            "data_schedule": format_data_schedule(loop.data_schedule),
            "settings_sha256": json_sha256(settings),
        }

    def train(self, data: LabelledImages, *, seed: int, observers: Sequence[ScoreMeter] = ()) -> TrainedProxy:
        """Train a new proxy from scratch."""
        config = replace(self.config, loop=replace(self.config.loop, seed=seed))
        member = train_member(
            config,
            data,
            self.normalisation,
            device=self.device,
            folder=None if self.folder is None else self.folder / f"{data.sha256[:16]}-{seed}",
            observers=observers,
            progress=self.progress,
        )
        return TrainedProxy(
            model=member.model,
            normalisation=member.normalisation,
            evaluations=member.result.evaluations,
            device=member.device,
            seconds=PhaseSeconds(wall_s=member.result.seconds, process_s=member.result.process_seconds),
        )

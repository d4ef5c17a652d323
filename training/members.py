"""One member of a committee, from its recipe to weights on disk."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from model_zoo.registry import build_model
from training.data.images import LabelledImages
from training.errors import DataError
from training.inputs import Normalisation
from training.loop import EpochReport, LoopConfig, Progress, train
from training.weights import write_weights


@dataclass(frozen=True, kw_only=True, slots=True)
class MemberConfig:
    """One member of a committee and how it is trained.

    Attributes:
        name: what it is called in the zoo.
        architecture: a name of ``model_zoo.registry``.
        loop: how it is trained; the architecture's own normalisation takes the place of the loop's, because it is what
            the exported graph will do.
    """

    name: str
    architecture: str
    loop: LoopConfig


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainedMember:
    """What came of a recipe.

    Attributes:
        config: the recipe, with the normalisation that was used.
        model: trained, in evaluation mode.
        reports: one an epoch.
        weights: where they were written.
    """

    config: MemberConfig
    model: nn.Module
    reports: tuple[EpochReport, ...]
    weights: Path

    @property
    def normalisation(self) -> Normalisation:
        """What the model's input needs."""
        return self.config.loop.normalisation


def train_member(
    config: MemberConfig, data: LabelledImages, folder: Path, *, device: str = "cpu", progress: Progress | None = None
) -> TrainedMember:
    """Build a member with seeded random weights, train it and write it down.

    Args:
        config: its recipe.
        data: training images, of the architecture's channels.
        folder: gets ``<name>.safetensors`` and ``<name>.jsonl``, one line an epoch; older ones are replaced.
        device: where to train.
        progress: called after each epoch.

    Returns:
        the trained member.

    Raises:
        DataError: the log can't be written, or the images don't fit.
        DivergedError: the loss was not finite; no weights are written.
        WeightsError: the weights can't be written.
        ZooError: the architecture can't be built.
    """
    channels = data.images_BHWC.shape[3]
    built = build_model(config.architecture, classes=len(data.classes), channels=channels, seed=config.loop.seed)
    normalisation = Normalisation(mean=built.preset.mean, std=built.preset.std)
    config = replace(config, loop=replace(config.loop, normalisation=normalisation))
    log = folder / f"{config.name}.jsonl"
    _start_log(log)
    reports = train(built.module, data, config.loop, device=device, log=log, progress=progress)
    weights = folder / f"{config.name}.safetensors"
    metadata: dict[str, str | int] = {
        "architecture": config.architecture,
        "seed": config.loop.seed,
        "data_sha256": data.sha256,
    }
    write_weights(built.module, weights, metadata)
    return TrainedMember(config=config, model=built.module, reports=reports, weights=weights)


def _start_log(log: Path) -> None:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
    except OSError as error:
        raise DataError(f"{error.filename or log}: {error.strerror}") from error

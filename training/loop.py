"""Training from start to end: epochs, validation, logs, checkpoints; a killed run goes on where it was."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from cascade_serve.core.arrays import FloatArray
from training.data.images import LabelledImages
from training.energy import EnergyMeter, NoMeter
from training.errors import DivergedError
from training.evaluation import evaluate
from training.inputs import Normalisation
from training.journal import Journal
from training.loop_config import LoopConfig, Precision
from training.reports import EpochReport, Progress, TrainingResult
from training.run import BatchObserver, TrainingRun

__all__ = [
    "BatchObserver",
    "EpochReport",
    "LoopConfig",
    "Precision",
    "Progress",
    "TrainingResult",
    "TrainingRun",
    "train",
]


def train(
    model: nn.Module,
    data: LabelledImages,
    config: LoopConfig,
    normalisation: Normalisation,
    *,
    device: str = "cpu",
    folder: Path | None = None,
    validation: LabelledImages | None = None,
    scores_N: FloatArray | None = None,
    observers: Sequence[BatchObserver] = (),
    progress: Progress | None = None,
    checkpoint_every: int = 1,
    validate_every: int = 1,
    energy_meter: EnergyMeter | None = None,
    tensorboard: bool = False,
) -> TrainingResult:
    """Train a model in place; it ends in evaluation mode, with the averaged weights where an average is kept.

    Args:
        model: takes normalised float32 [B, C, H, W], gives logits [B, K]; it is moved to ``device``.
        data: training images.
        config: how.
        normalisation: of the pixels.
        device: where, such as ``cpu`` or ``cuda``.
        folder: gets ``log.jsonl``, ``dawnbench.tsv`` and ``checkpoint.pt``; a run whose checkpoint lies there is
            resumed. None keeps nothing.
        validation: unseen images that each report's ``validation_accuracy`` is measured on; nothing is chosen by it.
        scores_N: [N], just where the data schedule names a score: the highest are kept first.
        observers: hear of each trained batch.
        progress: called after each epoch.
        checkpoint_every: epochs from one checkpoint to the next; the last epoch always has one.
        validate_every: epochs from one validation to the next; the last epoch always has one.
        energy_meter: what measures energy; None measures none.
        tensorboard: scalars are also written into ``folder``/tensorboard.

    Returns:
        reports and totals, with those of before a resume.

    Raises:
        CheckpointError: the folder's checkpoint is of another configuration or other data, or can't be read or written.
        DataError: there are no images, or they or the data schedule don't fit.
        DivergedError: a loss was not finite, or an epoch's weights; names the step and the last good checkpoint.
        EnergyError: the meter can't measure.
        LogError: a log can't be written.
        ValueError: an ``every`` is under 1.
    """
    for name, every in (("checkpoint_every", checkpoint_every), ("validate_every", validate_every)):
        if every < 1:
            raise ValueError(f"{name}: got {every}; must be at least 1")
    run = TrainingRun(model, data, config, normalisation, device=device, scores_N=scores_N, observers=observers)
    meter = energy_meter or NoMeter()
    with Journal(run, folder, meter, checkpoint_every=checkpoint_every, tensorboard=tensorboard) as journal:
        while run.epoch < config.epochs:
            report = _run_epoch(run, journal)
            if validation is not None and report.is_due(validate_every):
                report = _validated(run, report, validation, normalisation)
            journal.add(report)
            if progress is not None:
                progress(report)
        result = journal.result()
    model.load_state_dict(run.averaged_model().state_dict())
    model.eval()
    return result


def _run_epoch(run: TrainingRun, journal: Journal) -> EpochReport:
    try:
        return run.run_epoch()
    except DivergedError as error:
        if journal.last_checkpoint is None:
            raise
        raise error.with_checkpoint(journal.last_checkpoint) from error


def _validated(
    run: TrainingRun, report: EpochReport, validation: LabelledImages, normalisation: Normalisation
) -> EpochReport:
    found = evaluate(run.averaged_model(), validation, normalisation, device=str(run.device), tta=run.config.tta)
    return replace(report, validation_accuracy=found.top1)

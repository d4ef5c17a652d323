"""Training from start to end: epochs, validation, logs, checkpoints; a killed run goes on where it was."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from torch import nn

from cascade_serve.core.arrays import FloatArray
from training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from training.data.images import LabelledImages
from training.energy import Energy, EnergyMeter, NoMeter
from training.errors import DivergedError
from training.evaluation import evaluate
from training.inputs import Normalisation
from training.logs import EpochLog, TensorboardLog, dawnbench_log, json_log
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
        DivergedError: a loss was not finite; names the step and the last good checkpoint.
        EnergyError: the meter can't measure.
        LogError: a log can't be written.
    """
    start_s = time.perf_counter()
    run = TrainingRun(model, data, config, normalisation, device=device, scores_N=scores_N, observers=observers)
    checkpoint_path = None if folder is None else folder / "checkpoint.pt"
    reports, energy_before = _resume(run, checkpoint_path)
    meter = energy_meter or NoMeter()
    with ExitStack() as stack:
        logs = _open_logs(folder, reports, stack, tensorboard=tensorboard)
        meter.start()
        stack.callback(meter.stop)
        while run.epoch < config.epochs:
            report = _run_epoch(run, checkpoint_path)
            if validation is not None and _is_due(report, validate_every):
                report = _validated(run, report, validation, normalisation)
            reports.append(report)
            for log in logs:
                log.write(report)
            if checkpoint_path is not None and _is_due(report, checkpoint_every):
                energy = energy_before + meter.read()
                write_checkpoint(Checkpoint(run=run.state_dict(), reports=reports, energy=energy), checkpoint_path)
            if progress is not None:
                progress(report)
        energy = energy_before + meter.read()
    model.load_state_dict(run.averaged_model().state_dict())
    model.eval()
    last = reports[-1]
    return TrainingResult(
        reports=tuple(reports),
        evaluations=last.evaluations,
        seconds=last.seconds,
        process_seconds=last.process_seconds,
        wall_seconds=time.perf_counter() - start_s,
        peak_memory_bytes=last.peak_memory_bytes,
        energy=energy,
    )


def _resume(run: TrainingRun, path: Path | None) -> tuple[list[EpochReport], Energy]:
    """Take up a checkpoint, where there is one."""
    checkpoint = None if path is None else read_checkpoint(path)
    if checkpoint is None:
        return [], Energy()
    run.load_state_dict(checkpoint.run)
    return list(checkpoint.reports), checkpoint.energy


def _open_logs(
    folder: Path | None, reports: Sequence[EpochReport], stack: ExitStack, *, tensorboard: bool
) -> list[EpochLog]:
    if folder is None:
        return []
    logs: list[EpochLog] = [json_log(folder / "log.jsonl"), dawnbench_log(folder / "dawnbench.tsv")]
    if tensorboard:
        logs.append(TensorboardLog(folder / "tensorboard"))
    for log in logs:
        log.start(reports)
        stack.callback(log.close)
    return logs


def _run_epoch(run: TrainingRun, checkpoint_path: Path | None) -> EpochReport:
    try:
        return run.run_epoch()
    except DivergedError as error:
        if checkpoint_path is None or not checkpoint_path.exists():
            raise
        raise error.with_checkpoint(checkpoint_path) from error


def _is_due(report: EpochReport, every: int) -> bool:
    return report.epoch % every == 0 or report.epoch == report.epochs


def _validated(
    run: TrainingRun, report: EpochReport, validation: LabelledImages, normalisation: Normalisation
) -> EpochReport:
    found = evaluate(
        run.averaged_model(), validation, normalisation, device=str(run.device), flip_tta=run.config.flip_tta
    )
    return replace(report, validation_accuracy=found.top1)

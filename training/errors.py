"""Errors of the training side.

TrainingError
├── AugmentError      an op, a policy or a schedule file can't be used
├── DataError         a data set or a split of it can't be made as asked
├── DeviceError       a device is asked for that is not there
├── CheckpointError   a checkpoint can't be written, read, or continued by this run
├── ClusterError      members can't be trained on a cluster
├── DivergedError     the loss is no longer finite; names the step and the last good checkpoint
├── EnergyError       energy can't be measured as asked
├── LogError          a log can't be written
├── MemberExportError a trained member can't become one of a zoo
├── RecipeError       a recipe is unknown, can't be loaded, or makes no configuration
├── ReportError       a report can't be written
├── RunDirError       a run folder is in use, damaged or used against its rules
├── SettingsError     a setting is unknown or not what its field takes
├── PolicySearchError a policy search can't be run, resumed or read
├── SelectionError    a subset can't be chosen, read, or used on these data
└── WeightsError      weights can't be written
"""

from pathlib import Path


class TrainingError(Exception):
    """Root of the training side's errors."""


class AugmentError(TrainingError):
    """An augmentation op, a policy or a file of a policy schedule can't be used."""


class DataError(TrainingError):
    """A data set or a split of it can't be made as asked."""


class DeviceError(TrainingError):
    """A device is asked for that is not there."""


class ClusterError(TrainingError):
    """Members can't be trained on a cluster."""


class CheckpointError(TrainingError):
    """A checkpoint can't be written, read, or continued by this run."""


class DivergedError(TrainingError):
    """The loss is no longer finite, or the weights aren't.

    Args:
        step: the first step, counted from 1, whose loss was not finite; the last of the epoch that broke the weights.
        epoch: its epoch, counted from 1.
        loss: what it was; None where it was finite, and the weights that were left are not.
        peak_lr: the largest learning rate of the schedule behind it.
        is_proxys: it is the proxy that filters batches.
        checkpoint: the last good one; None is none, or not known here.
    """

    def __init__(
        self,
        *,
        step: int,
        epoch: int,
        loss: float | None,
        peak_lr: float,
        is_proxys: bool = False,
        checkpoint: Path | None = None,
    ) -> None:
        kept = "" if checkpoint is None else f"; the last good checkpoint is {checkpoint}"
        what, got = ("weights", "nan or inf behind it") if loss is None else ("loss", f"{loss}")
        whose, rate = ("proxy_filter's ", "proxy_filter.lr's peak_lr") if is_proxys else ("", "peak_lr")
        super().__init__(
            f"step {step} (epoch {epoch}): {whose}{what}: got {got}; must be finite;"
            f" try a {rate} below {peak_lr:g}{kept}"
        )
        self.step = step
        self.epoch = epoch
        self.loss = loss
        self.peak_lr = peak_lr
        self.is_proxys = is_proxys
        self.checkpoint = checkpoint

    def with_checkpoint(self, checkpoint: Path) -> "DivergedError":
        """Give the same error with the last good checkpoint named."""
        return DivergedError(
            step=self.step,
            epoch=self.epoch,
            loss=self.loss,
            peak_lr=self.peak_lr,
            is_proxys=self.is_proxys,
            checkpoint=checkpoint,
        )


class EnergyError(TrainingError):
    """Energy can't be measured as asked."""


class LogError(TrainingError):
    """A log can't be written."""


class PolicySearchError(TrainingError):
    """A policy search can't be run, resumed or read."""


class SelectionError(TrainingError):
    """A subset can't be chosen as asked, read back, or used on these data."""


class MemberExportError(TrainingError):
    """A trained member can't become one of a zoo."""


class RecipeError(TrainingError):
    """A recipe is unknown, can't be loaded, or makes no configuration."""


class ReportError(TrainingError):
    """A run's report can't be written."""


class RunDirError(TrainingError):
    """A run folder is in use, damaged or used against its rules; the message names the file or stage."""


class SettingsError(TrainingError):
    """A setting is unknown or not what its field takes; the message names key, value and what is expected."""


class WeightsError(TrainingError):
    """Weights can't be written."""

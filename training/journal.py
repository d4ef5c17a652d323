"""What a run leaves behind epoch by epoch: reports, logs, checkpoints and energy, taken up again after a kill."""

import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from training.checkpoint import UNREADABLE, Checkpoint, read_checkpoint, write_checkpoint
from training.energy import Energy, EnergyMeter
from training.errors import CheckpointError
from training.logs import EpochLog, TensorboardLog, dawnbench_log, json_log
from training.reports import EpochReport, TrainingResult
from training.run import TrainingRun


class Journal:
    """Keeps a run's records, in a folder if there is one; used as a context manager around the run's epochs.

    Args:
        run: a new run; it takes up the folder's checkpoint when the journal is entered.
        folder: gets ``log.jsonl``, ``dawnbench.tsv`` and ``checkpoint.pt``; None keeps nothing.
        meter: measures energy while the journal is open.
        checkpoint_every: epochs from one checkpoint to the next; the last epoch always has one.
        tensorboard: scalars are also written into ``folder``/tensorboard.
    """

    def __init__(
        self, run: TrainingRun, folder: Path | None, meter: EnergyMeter, *, checkpoint_every: int, tensorboard: bool
    ) -> None:
        self._began_s = time.perf_counter()
        self._run = run
        self._checkpoint = None if folder is None else folder / "checkpoint.pt"
        self._meter = meter
        self._checkpoint_every = checkpoint_every
        self._logs: list[EpochLog] = []
        if folder is not None:
            self._logs += [json_log(folder / "log.jsonl"), dawnbench_log(folder / "dawnbench.tsv")]
            if tensorboard:
                self._logs.append(TensorboardLog(folder / "tensorboard"))
        self._reports: list[EpochReport] = []
        self._energy_before = Energy()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Take up the checkpoint, begin the logs with its epochs, and start the meter.

        Raises:
            CheckpointError: the checkpoint is of another run, or can't be read.
            EnergyError: the meter can't measure.
            LogError: a log can't be written.
        """
        with ExitStack() as opening:
            self._resume()
            for log in self._logs:
                opening.callback(log.close)
                log.start(self._reports)
            opening.callback(self._meter.stop)
            self._meter.start()
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def _resume(self) -> None:
        checkpoint = None if self._checkpoint is None else read_checkpoint(self._checkpoint)
        if checkpoint is not None:
            try:
                self._run.load_state_dict(checkpoint.run)
            except CheckpointError as error:
                raise CheckpointError(f"{self._checkpoint}: {error}") from error
            except UNREADABLE as error:
                raise CheckpointError(f"{self._checkpoint}: is damaged ({error}); remove it to start anew") from error
            self._reports = list(checkpoint.reports)
            self._energy_before = checkpoint.energy

    @property
    def last_checkpoint(self) -> Path | None:
        """Where the last good state lies; None is nowhere."""
        return self._checkpoint if self._checkpoint is not None and self._checkpoint.exists() else None

    def add(self, report: EpochReport) -> None:
        """Log the epoch that the run has just done, and write a checkpoint if one is due.

        Raises:
            CheckpointError: the checkpoint can't be written.
            LogError: a log can't be written.
        """
        self._reports.append(report)
        for log in self._logs:
            log.write(report)
        if self._checkpoint is not None and report.is_due(self._checkpoint_every):
            checkpoint = Checkpoint(run=self._run.state_dict(), reports=self._reports, energy=self._energy())
            write_checkpoint(checkpoint, self._checkpoint)

    def result(self) -> TrainingResult:
        """Sum up the run, at least one epoch of it."""
        last = self._reports[-1]
        return TrainingResult(
            reports=tuple(self._reports),
            evaluations=last.evaluations,
            seconds=last.seconds,
            process_seconds=last.process_seconds,
            wall_seconds=time.perf_counter() - self._began_s,
            peak_memory_bytes=last.peak_memory_bytes,
            energy=self._energy(),
        )

    def _energy(self) -> Energy:
        return self._energy_before + self._meter.read()

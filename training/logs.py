"""Logs of a run: JSON lines, DAWNBench's table, TensorBoard; none has an epoch twice after a resume."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from training.errors import LogError
from training.files import write_whole
from training.reports import EpochReport

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_DAWNBENCH_HEADER = "epoch\thours\ttop1Accuracy\n"


class EpochLog(Protocol):
    """Takes down each epoch."""

    def start(self, reports: Sequence[EpochReport]) -> None:
        """Begin with the epochs that a resumed run has behind it; all else that an older log held is dropped."""
        ...

    def write(self, report: EpochReport) -> None:
        """Add an epoch."""
        ...

    def close(self) -> None:
        """End."""
        ...


class TextLog:
    """A text file with at most one line an epoch.

    Args:
        path: its folder is made where it is absent.
        line: makes an epoch's line, line feed included; empty leaves the epoch out.
        header: stands at the top.
    """

    def __init__(self, path: Path, line: Callable[[EpochReport], str], header: str = "") -> None:
        self._path = path
        self._line = line
        self._header = header

    def start(self, reports: Sequence[EpochReport]) -> None:
        """Write the file anew, with these epochs.

        Raises:
            LogError: it can't be written.
        """
        with _named_errors(self._path):
            write_whole(self._path, (self._header + "".join(map(self._line, reports))).encode())

    def write(self, report: EpochReport) -> None:
        """Append an epoch.

        Raises:
            LogError: it can't be written.
        """
        with _named_errors(self._path), self._path.open("a", encoding="utf-8", newline="") as file:
            file.write(self._line(report))

    def close(self) -> None:
        """Nothing is open between two epochs."""


def json_log(path: Path) -> TextLog:
    """Log every field of each report as a line of JSON."""
    return TextLog(path, lambda report: json.dumps(asdict(report)) + "\n")


def dawnbench_log(path: Path) -> TextLog:
    """Log the table that DAWNBench takes: epoch, hours of training so far, validation accuracy in percent.

    Source: Coleman et al., "DAWNBench" (2017), the format of its image classification entries. Epochs that were not
    validated are left out.
    """
    return TextLog(path, _dawnbench_line, _DAWNBENCH_HEADER)


class TensorboardLog:
    """Scalars by epoch for TensorBoard (the extra ``tensorboard``).

    Args:
        folder: gets the event files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def start(self, reports: Sequence[EpochReport]) -> None:
        """Open, and have the epochs after ``reports`` hidden that a killed run had still logged.

        Raises:
            LogError: tensorboard is not installed, or the folder can't be written.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise LogError(
                "tensorboard is not installed; install cascade-serve[tensorboard], or leave it out"
            ) from error
        with _named_errors(self._folder):
            self._writer = SummaryWriter(str(self._folder), purge_step=len(reports) + 1)

    def write(self, report: EpochReport) -> None:
        """Add an epoch's numbers."""
        assert self._writer is not None, "started before it is written to"
        for name, value in asdict(report).items():
            if name not in ("epoch", "epochs") and value is not None:
                self._writer.add_scalar(name, value, report.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()


def _dawnbench_line(report: EpochReport) -> str:
    if report.validation_accuracy is None:
        return ""
    return f"{report.epoch}\t{report.seconds / 3600:.8f}\t{100 * report.validation_accuracy:.2f}\n"


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LogError(f"{error.filename or path}: {error.strerror or error}") from error

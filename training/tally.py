"""What a run counts: over an epoch, and since its start."""
# Shapes: S steps of an epoch, B rows of a batch.

import resource
import sys
import time
from dataclasses import dataclass, field
from types import TracebackType

import torch
from torch import Tensor

from training.reports import EpochReport
from training.steps import StepOutcome


class Stopwatch:
    """Sums up the wall-clock time spent inside ``with`` blocks.

    Attributes:
        seconds: so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._entered_s = 0.0

    def __enter__(self) -> None:
        self._entered_s = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds += time.perf_counter() - self._entered_s


@dataclass(kw_only=True)
class EpochTally:
    """Of one epoch; what lies on the device is looked at when the epoch is done, so that no step waits for it.

    Attributes:
        presented: images that were taken from the plan.
        trained: images that the model was trained on: fewer, where a proxy filters.
        input_watch: measures choosing, gathering and augmenting.
        began_s, began_process_s: wall and process clock at its start.
    """

    presented: int = 0
    trained: int = 0
    input_watch: Stopwatch = field(default_factory=Stopwatch)
    began_s: float = field(default_factory=time.perf_counter)
    began_process_s: float = field(default_factory=time.process_time)
    _losses: list[Tensor] = field(default_factory=list)
    _correct: list[Tensor] = field(default_factory=list)

    def add(self, outcome: StepOutcome, *, presented: int) -> None:
        """Count a step."""
        self.presented += presented
        self.trained += len(outcome.losses_B)
        self._losses.append(outcome.losses_B.sum())
        self._correct.append(outcome.correct_B.sum())

    @property
    def steps(self) -> int:
        """Steps counted."""
        return len(self._losses)

    @property
    def loss(self) -> float:
        """Mean over the images trained on, unweighted."""
        return float(torch.stack(self._losses).double().sum()) / self.trained

    @property
    def accuracy(self) -> float:
        """Share of the images trained on that were right."""
        return int(torch.stack(self._correct).sum()) / self.trained

    def find_broken(self) -> tuple[int, float] | None:
        """Give the first step, from 0, whose summed loss is not finite, and that sum; None where all are."""
        losses_S = torch.stack(self._losses).cpu()
        broken = torch.nonzero(~losses_S.isfinite())
        return None if len(broken) == 0 else (int(broken[0]), float(losses_S[broken[0]]))


@dataclass(kw_only=True)
class Totals:
    """Since the run's start; fields as in ``EpochReport``."""

    epochs: int = 0
    steps: int = 0
    evaluations: int = 0
    proxy_evaluations: int = 0
    seconds: float = 0.0
    process_seconds: float = 0.0
    input_seconds: float = 0.0
    peak_memory_bytes: int = 0

    def add(self, tally: EpochTally, device: torch.device) -> None:
        """Count an epoch that is just done."""
        self.epochs += 1
        self.steps += tally.steps
        self.evaluations += tally.trained
        self.seconds += time.perf_counter() - tally.began_s
        self.process_seconds += time.process_time() - tally.began_process_s
        self.input_seconds += tally.input_watch.seconds
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak_memory_bytes(device))

    def report(self, epochs: int, *, loss: float, accuracy: float, lr: float) -> EpochReport:
        """Report the epoch that was counted last, of so many planned."""
        return EpochReport(
            epoch=self.epochs,
            epochs=epochs,
            loss=loss,
            accuracy=accuracy,
            lr=lr,
            evaluations=self.evaluations,
            proxy_evaluations=self.proxy_evaluations,
            seconds=self.seconds,
            process_seconds=self.process_seconds,
            input_seconds=self.input_seconds,
            peak_memory_bytes=self.peak_memory_bytes,
        )


def peak_memory_bytes(device: torch.device) -> int:
    """Give the largest memory so far: allocated on a GPU, else resident, of the whole process since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Kibibytes on Linux, bytes on macOS.
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes

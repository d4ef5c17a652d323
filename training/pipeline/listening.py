"""Who hears what a pipeline does."""

from collections.abc import Callable
from typing import Protocol

from training.reports import EpochReport


class Listener(Protocol):
    """Hears of a pipeline's work."""

    def begin(self, what: str, total: int | None) -> Callable[[int], None]:
        """Hear what begins.

        Args:
            what: in words.
            total: units of work; None where nobody knows.

        Returns:
            what is called with the units done since the last call.
        """
        ...

    def tell(self, line: str) -> None:
        """Hear what came of a piece of work, as a line that stays."""
        ...


class Quiet:
    """Hears nothing."""

    def begin(self, what: str, total: int | None) -> Callable[[int], None]:
        """Ignore what begins."""
        del what, total
        return lambda _done: None

    def tell(self, line: str) -> None:
        """Ignore a line."""


class EpochProgress:
    """Turns the reports of one training after another into a bar each.

    Args:
        listener: hears of them.
        what: is trained.
    """

    def __init__(self, listener: Listener, what: str) -> None:
        self._listener = listener
        self._what = what
        self._last = 0
        self._advance: Callable[[int], None] | None = None

    def __call__(self, report: EpochReport) -> None:
        """Hear of an epoch; of a resumed training the first is not number 1."""
        if self._advance is None or report.epoch <= self._last:
            self._advance, self._last = self._listener.begin(f"training {self._what}", report.epochs), 0
        self._advance(report.epoch - self._last)
        self._last = report.epoch

"""Who hears what a pipeline does."""

from collections.abc import Callable
from typing import Protocol


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

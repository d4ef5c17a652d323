"""Listeners for pipelines: one that remembers, and one that ends a run at a chosen point as a kill would."""

from collections.abc import Callable


class Killed(BaseException):
    """Stands in for a signal: nothing may catch it but to note the time."""


class Memory:
    """Remembers what began and what was told."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.told: list[str] = []

    def begin(self, what: str, total: int | None) -> Callable[[int], None]:
        self.begun.append(what)
        return lambda _done: None

    def tell(self, line: str) -> None:
        self.told.append(line)

    def new(self) -> list[str]:
        """Name the stages that were not as before, by the first word that each tells."""
        return [line.partition(":")[0] for line in self.told if not line.endswith("(as before)")]


class Killer(Memory):
    """Ends the run in the middle of a piece of work.

    Args:
        what: beginning of the work's name.
        after: calls of its progress that pass.
    """

    def __init__(self, what: str, after: int = 0) -> None:
        super().__init__()
        self._what = what
        self._left = after

    def begin(self, what: str, total: int | None) -> Callable[[int], None]:
        super().begin(what, total)
        if not what.startswith(self._what):
            return lambda _done: None
        if total is None:
            raise Killed(what)
        return self._advance

    def _advance(self, done: int) -> None:
        if self._left == 0:
            raise Killed(self._what)
        self._left -= 1

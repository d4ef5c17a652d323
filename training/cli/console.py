"""What the commands show: bars on standard error while they work, lines on standard output that stay."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class TerminalListener:
    """Shows what a pipeline does.

    Args:
        bars: where progress goes.
    """

    def __init__(self, bars: Progress) -> None:
        self._bars = bars

    def begin(self, what: str, total: int | None) -> Callable[[int], None]:
        """Show a bar for a piece of work; the one before it is done.

        Args:
            what: in words.
            total: units of work; None where nobody knows.

        Returns:
            what is called with the units done since the last call.
        """
        for running in self._bars.task_ids:
            self._bars.remove_task(running)
        task = self._bars.add_task(what, total=total)
        return lambda done: self._bars.advance(task, done)

    def tell(self, line: str) -> None:
        """Print a line on standard output."""
        print_line(line)


@contextmanager
def listening() -> Iterator[TerminalListener]:
    """Give a listener whose bars vanish in the end, and don't show where standard error is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Redirected, lines for standard output would end in standard error: wanted only where both are the same screen.
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),
    ) as bars:
        yield TerminalListener(bars)


def print_line(line: str) -> None:
    """Print a line as it is, however long, so that it can be copied, and at once, also into a pipe."""
    print(line, flush=True)  # noqa: T201 - the command line's output

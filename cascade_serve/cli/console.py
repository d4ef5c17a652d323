"""Where tables are printed: as wide as the terminal, or, in a file or pipe, as wide as they want to be."""

import os

from rich.console import Console

_PIPE_COLUMNS = 160


def table_console() -> Console:
    """Give standard output; ``COLUMNS`` sets its width anywhere."""
    console = Console(highlight=False)
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=_PIPE_COLUMNS, highlight=False)

"""Where tables are printed: as wide as the terminal, or, in a file or pipe, as wide as they want to be.

Names of classes, folders and processors are shown as they are, also where rich would take them for markup.
"""

import os

from rich.console import Console

_PIPE_COLUMNS = 160


def table_console() -> Console:
    """Give standard output; ``COLUMNS`` sets its width anywhere."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPE_COLUMNS
    return console

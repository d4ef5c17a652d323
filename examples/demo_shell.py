"""The demo's terminal: its console, and commands that are shown before they run."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

Command = Sequence[str | Path]
"""Words after ``cascade-serve``."""

_WIDTH = 120

# Where output is piped, rich would fold the tables at 80 columns.
console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)


class DemoError(Exception):
    """The demo can't go on; the message says why."""


def command_line(*arguments: str | Path) -> list[str]:
    """Give the command as the shell would get it, from the environment that runs this demo."""
    script = shutil.which("cascade-serve", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if script is None:
        raise DemoError("cascade-serve is not installed; type: make demo")
    return [script, *map(str, arguments)]


def run_commands(*commands: Command) -> None:
    """Run commands side by side; each is shown when it has ended, above what it printed.

    Raises:
        DemoError: one failed.
    """
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(  # noqa: S603 - our own command
                    command_line(*command),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=_terminal(),
                )
            )
            for command in commands
        ]
        for command, process in zip(commands, processes, strict=True):
            with console.status(f"cascade-serve {command[0]}"):
                printed, complaints = process.communicate()
            show_command(*command)
            sys.stdout.write(printed.lstrip("\n"))
            if process.returncode != 0:
                raise DemoError(
                    f"cascade-serve {command[0]} ended with exit code {process.returncode}: {complaints.strip()}"
                )


def _terminal() -> dict[str, str]:
    """Tell commands, whose output is a pipe here, how wide the place is that shows it."""
    return {**os.environ, "COLUMNS": str(console.width)}


def show_command(*arguments: str | Path) -> None:
    """Print a command as one would type it."""
    console.print(f"$ cascade-serve {shlex.join(map(str, arguments))}", style="bold", markup=False, soft_wrap=True)

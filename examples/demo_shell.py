"""The demo's terminal: its console, and commands that are shown before they run."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console

Command = Sequence[str | Path]
"""Words after ``cascade-serve``."""

_SERVE = "cascade-serve"

_WIDTH = 120

# Where output is piped, rich would fold the tables at 80 columns.
console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)


class DemoError(Exception):
    """The demo can't go on; the message says why."""


def command_line(*arguments: str | Path, program: str = _SERVE) -> list[str]:
    """Give the command as the shell would get it, from the environment that runs this demo."""
    script = shutil.which(program, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if script is None:
        raise DemoError(f"{program} is not installed; type: make demo")
    return [script, *map(str, arguments)]


def run_command(*arguments: str | Path, program: str = _SERVE) -> None:
    """Show a command and run it; what it prints shows as it comes.

    Args:
        arguments: words after the program.
        program: the script.

    Raises:
        DemoError: it failed.
    """
    show_command(*arguments, program=program)
    sys.stdout.flush()
    with subprocess.Popen(  # noqa: S603 - our own command
        command_line(*arguments, program=program), env=_terminal()
    ) as process:
        try:
            code = process.wait()
        finally:
            # An error or signal in the demo must not leave a child behind; one that has ended is not touched.
            process.kill()
    if code != 0:
        raise DemoError(f"{program} {arguments[0]} ended with exit code {code}")


class RunningCommand:
    """A command that runs beside the demo, and is shown with what it printed once it has ended.

    Args:
        arguments: words after ``cascade-serve``.
    """

    def __init__(self, *arguments: str | Path) -> None:
        self._arguments = arguments
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            command_line(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_terminal()
        )

    def finish(self) -> None:
        """Wait for its end and show it.

        Raises:
            DemoError: it failed.
        """
        name = self._arguments[0]
        with console.status(f"cascade-serve {name}"):
            printed, complaints = self._process.communicate()
        show_command(*self._arguments)
        sys.stdout.write(printed.lstrip("\n"))
        if self._process.returncode != 0:
            raise DemoError(
                f"cascade-serve {name} ended with exit code {self._process.returncode}: {complaints.strip()}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After finish() there is nothing left to end; before it, an error in the demo must not leave a child behind.
        self._process.kill()
        self._process.communicate()


def run_commands(*commands: Command) -> None:
    """Run commands side by side; each is shown when it has ended, above what it printed.

    Raises:
        DemoError: one failed.
    """
    with ExitStack() as stack:
        for running in [stack.enter_context(RunningCommand(*command)) for command in commands]:
            running.finish()


def _terminal() -> dict[str, str]:
    """Tell commands, whose output is a pipe here, how wide the place is that shows it."""
    return {**os.environ, "COLUMNS": str(console.width)}


def show_command(*arguments: str | Path, program: str = _SERVE) -> None:
    """Print a command as one would type it."""
    console.print(f"$ {program} {shlex.join(map(str, arguments))}", style="bold", markup=False, soft_wrap=True)

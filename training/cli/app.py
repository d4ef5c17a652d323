"""The ``cascade-train`` command: its commands, and the one place where errors become exit codes."""

import os
import sys

import typer
from rich.console import Console

from model_zoo.errors import ZooError
from training.cli import export, policy_search, report, run, selection, train
from training.errors import ClusterError, DivergedError, TrainingError

app = typer.Typer(
    name="cascade-train",
    help="Train the small models that a committee is built of.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (run, selection, policy_search, train, export, report):
    command.register(app)


@app.callback()
def _root() -> None:
    """Train the small models that a committee is built of."""


def main() -> None:
    """Run the command line: exit 0 is success, 2 a demand or file at fault, 1 a run that failed on its way."""
    try:
        try:
            app()
        finally:
            _flush()
    except BrokenPipeError:
        # Whoever read the output, such as head, has enough of it.
        sys.exit(1)
    except OSError as error:
        sys.exit(_report(f"{error.filename or 'output'}: {error.strerror or error}", 2))
    except ModuleNotFoundError as error:
        sys.exit(_report(_missing(error), 2))
    except (DivergedError, ClusterError) as error:
        sys.exit(_report(str(error), 1))
    except (TrainingError, ZooError) as error:
        sys.exit(_report(str(error), 2))


def _missing(error: ModuleNotFoundError) -> str:
    extras = {"ray": "ray", "codecarbon": "energy", "tensorboard": "tensorboard"}
    package = str(error.name).partition(".")[0]
    return f"{package} is not installed; install it with: pip install 'cascade-serve[{extras.get(package, 'train')}]'"


def _flush() -> None:
    """Write out what is printed while errors can still be told."""
    try:
        sys.stdout.flush()
    except OSError:
        # Python would try again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _report(message: str, code: int) -> int:
    Console(stderr=True, soft_wrap=True).print(f"error: {message}", style="red", markup=False, highlight=False)
    return code

"""The ``cascade-serve`` command: its groups, and the one place where errors become exit codes."""

import os
import sys

import typer
from rich.console import Console

from cascade_serve import __version__
from cascade_serve.cli import client, plan, serve, zoo
from cascade_serve.errors import CascadeError, ConfigError
from model_zoo.errors import ZooError

app = typer.Typer(
    name="cascade-serve",
    help="Serve a committee of small models in place of one big one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
zoo.register(app)
plan.register(app)
serve.register(app)
client.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
    ),
) -> None:
    """Serve a committee of small models in place of one big one."""


def main() -> None:
    """Run the command line: exit 0 is success, 2 a demand or file at fault, 1 a request or server that failed."""
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
    except UnicodeEncodeError as error:
        sys.exit(_report(f"{error.object!a}: {error}", 2))
    except (ConfigError, ZooError) as error:
        sys.exit(_report(str(error), 2))
    except CascadeError as error:
        sys.exit(_report(str(error), 1))


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

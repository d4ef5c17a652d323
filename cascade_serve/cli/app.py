"""The ``cascade-serve`` command: its groups, and the one place where errors become exit codes."""

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
        app()
    except (ConfigError, ZooError) as error:
        sys.exit(_report(error, 2))
    except CascadeError as error:
        sys.exit(_report(error, 1))


def _report(error: Exception, code: int) -> int:
    Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False, highlight=False)
    return code

"""The command ``report``: what a run did, as one HTML file and pictures."""

from pathlib import Path
from typing import Annotated

import typer

from training.cli.console import print_line


def register(app: typer.Typer) -> None:
    """Add ``report``."""
    app.command("report")(report)


def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run.", show_default=False)],
) -> None:
    """Write learning curves, selection curves, the policy schedule and accuracies into the run's folder."""
    from training.report import write_report

    print_line(f"report: {write_report(run_dir)}")

"""The command ``export``: a run's trained members become members of a zoo."""

from pathlib import Path
from typing import Annotated

import typer

from training.cli.console import listening


def register(app: typer.Typer) -> None:
    """Add ``export``."""
    app.command("export")(export)


def export(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run.", show_default=False)],
    *,
    zoo: Annotated[Path, typer.Option(metavar="ZOO", help="Folder of the zoo; made if absent.")],
) -> None:
    """Add a run's members to a zoo: weights, ONNX graph, card with the whole descent, calibration logits."""
    from training.cli.orders import export_and_say

    with listening() as listener:
        export_and_say(run_dir, zoo, listener)

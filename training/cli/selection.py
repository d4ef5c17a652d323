"""The command ``select``: which training images are worth their cost, by the word of a proxy."""

from shlex import quote
from typing import Annotated

import typer

from training.cli.console import listening
from training.cli.options import DataOption, DeviceOption, OutOption, RecipeArgument, SeedOption, SetOption

_SELECTION = "The selection"


def register(app: typer.Typer) -> None:
    """Add ``select``."""
    app.command("select")(select)


def select(
    recipe: RecipeArgument,
    *,
    score: Annotated[
        str | None,
        typer.Option(
            metavar="SCORE",
            help="least_confidence, entropy, margin, forgetting_events, k_center, ccs or random."
            " \\[default: the recipe's]",
            rich_help_panel=_SELECTION,
        ),
    ] = None,
    fraction: Annotated[
        float | None,
        typer.Option(
            metavar="F",
            help="Share of the training images to keep, or to end active learning at, above 0 and at most 1."
            " \\[default: the recipe's]",
            rich_help_panel=_SELECTION,
        ),
    ] = None,
    active_learning: Annotated[
        bool,
        typer.Option(
            "--active-learning",
            help="Label round after round, from a small random start, in place of a core-set.",
            rich_help_panel=_SELECTION,
        ),
    ] = False,
    data: DataOption = None,
    out: OutOption = None,
    device: DeviceOption = "cpu",
    seed: SeedOption = 0,
    settings: SetOption = None,
) -> None:
    """Choose a subset by the recipe's proxy, and write it as a file that ``train --subset`` takes."""
    from training.cli.orders import make_order, with_selection
    from training.pipeline.running import select_only

    order = make_order(recipe, data=data, out=out, device=device, seed=seed, settings=settings)
    order = with_selection(order, score=score, fraction=fraction, active_learning=active_learning)
    with listening() as listener:
        path = select_only(order, listener)
        listener.tell(f"subset: {path}")
        listener.tell(f"next:   {order.command('train')} --subset {quote(str(path))}")

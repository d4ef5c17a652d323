"""The command ``train``: the members alone, on a subset and under a policy schedule given as files."""

from pathlib import Path
from typing import Annotated

import typer

from training.cli.console import listening
from training.cli.options import (
    AddressOption,
    DataOption,
    DeviceOption,
    OutOption,
    RecipeArgument,
    SeedOption,
    SetOption,
    ZooOption,
)

_MEMBERS = "The members"


def register(app: typer.Typer) -> None:
    """Add ``train``."""
    app.command("train")(train)


def train(
    recipe: RecipeArgument,
    *,
    subset: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Train on these images, as cascade-train select wrote them. \\[default: all]",
            rich_help_panel=_MEMBERS,
        ),
    ] = None,
    policy_schedule: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Augment by this schedule, as cascade-train search-policy wrote it, or one of PBA's published text"
            " files. \\[default: the recipe's augmentation]",
            rich_help_panel=_MEMBERS,
        ),
    ] = None,
    flatten: Annotated[
        bool,
        typer.Option(
            "--flatten",
            help="Take the order out of the policy schedule: in every epoch each image draws one of its policies.",
            rich_help_panel=_MEMBERS,
        ),
    ] = False,
    data_schedule: Annotated[
        str | None,
        typer.Option(
            metavar="SCHEDULE",
            help="Which part of the data each epoch trains on: none, step:FRACTION:SHARE, increment:FRACTION,"
            " cut:CUTS[:MODE] or infobatch; the first three with :score=NAME put a selection score in place of chance."
            " \\[default: the recipe's]",
            rich_help_panel=_MEMBERS,
        ),
    ] = None,
    data: DataOption = None,
    out: OutOption = None,
    zoo: ZooOption = None,
    device: DeviceOption = "cpu",
    seed: SeedOption = 0,
    settings: SetOption = None,
    address: AddressOption = None,
) -> None:
    """Train and evaluate the recipe's members, without its selection and policy search."""
    from training.cli.orders import check_target, finish, make_order, with_data_schedule
    from training.pipeline.running import train_only

    order = make_order(
        recipe, data=data, out=out, device=device, seed=seed, settings=settings, address=address, zoo=zoo
    )
    if data_schedule is not None:
        order = with_data_schedule(order, data_schedule)
    check_target(order, zoo)
    with listening() as listener:
        train_only(order, listener, subset=subset, policy_schedule=policy_schedule, is_flattened=flatten)
        finish(order, zoo, listener)

"""The command ``run``: from images to a zoo of trained members."""

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


def register(app: typer.Typer) -> None:
    """Add ``run``."""
    app.command("run")(run)


def run(
    recipe: RecipeArgument,
    *,
    data: DataOption = None,
    out: OutOption = None,
    zoo: ZooOption = None,
    device: DeviceOption = "cpu",
    seed: SeedOption = 0,
    settings: SetOption = None,
    address: AddressOption = None,
) -> None:
    """Do all that the recipe says: split, select, search a policy, train every member, evaluate, export."""
    from training.cli.orders import check_target, finish, make_order
    from training.pipeline.running import run_all

    order = make_order(
        recipe, data=data, out=out, device=device, seed=seed, settings=settings, address=address, zoo=zoo
    )
    check_target(order, zoo)
    with listening() as listener:
        run_all(order, listener)
        finish(order, zoo, listener)

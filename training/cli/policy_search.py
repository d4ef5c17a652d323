"""The command ``search-policy``: an augmentation schedule by population based augmentation."""

from enum import StrEnum
from shlex import quote
from typing import Annotated

import typer

from training.cli.console import listening
from training.cli.options import DataOption, DeviceOption, OutOption, RecipeArgument, SeedOption, SetOption

_SEARCH = "The search"


class BackendName(StrEnum):
    """What runs the trials; as in ``training.policy_search``, which is slow to import."""

    LOCAL = "local"
    RAY = "ray"


def register(app: typer.Typer) -> None:
    """Add ``search-policy``."""
    app.command("search-policy")(search_policy)


def search_policy(
    recipe: RecipeArgument,
    *,
    population: Annotated[
        int | None, typer.Option(min=1, help="Trials. \\[default: the recipe's]", rich_help_panel=_SEARCH)
    ] = None,
    train_images: Annotated[
        int | None,
        typer.Option(
            min=1, help="Images that each trial learns from. \\[default: the recipe's]", rich_help_panel=_SEARCH
        ),
    ] = None,
    backend: Annotated[
        BackendName | None,
        typer.Option(
            help="Ray Tune, or this process. \\[default: the recipe's; ray with --address]", rich_help_panel=_SEARCH
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="CLUSTER",
            help="Ray cluster to run the trials on, such as auto or HOST:6379; local starts one on this machine."
            " \\[default: the recipe's]",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    data: DataOption = None,
    out: OutOption = None,
    device: DeviceOption = "cpu",
    seed: SeedOption = 0,
    settings: SetOption = None,
) -> None:
    """Search a policy schedule, and write it as a file that ``train --policy-schedule`` takes."""
    from training.cli.orders import make_order, with_policy_search
    from training.pipeline.running import search_only

    order = make_order(recipe, data=data, out=out, device=device, seed=seed, settings=settings)
    order = with_policy_search(
        order,
        population=population,
        train_images=train_images,
        backend=None if backend is None else backend.value,
        address=address,
    )
    with listening() as listener:
        path = search_only(order, listener)
        listener.tell(f"policy schedule: {path}")
        listener.tell(f"next:            {order.command('train')} --policy-schedule {quote(str(path))}")

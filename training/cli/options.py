"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from training.seeds import MAX_SEED

RUNS = Path("runs")
"""Where run folders lie unless --out says otherwise."""

_RUN = "The run"

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="digits, cifar10, cifar100, svhn, mnist, smallnorb, folder; or your own: path/to/file.py:function or"
        " module:function.",
        show_default=False,
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Folder or archive of the images, such as DIR/<class>/<file>; digits need none.",
        rich_help_panel=_RUN,
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="RUN_DIR",
        help="Folder of the run; what an earlier run finished there is not done again. \\[default: runs/<recipe>]",
        rich_help_panel=_RUN,
    ),
]
ZooOption = Annotated[
    Path | None,
    typer.Option("--zoo", metavar="ZOO", help="Export the members there at the end.", rich_help_panel=_RUN),
]
DeviceOption = Annotated[
    str, typer.Option("--device", metavar="cpu|cuda", help="Where to train.", rich_help_panel=_RUN)
]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, max=MAX_SEED, help="Of everything drawn.", rich_help_panel=_RUN)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one setting of the recipe, such as members.0.loop.epochs=3; may be repeated.",
        rich_help_panel=_RUN,
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="CLUSTER",
        help="Ray cluster to train members side by side on, such as auto or HOST:6379; local starts one on this"
        " machine, with a CPU thread a member. \\[default: none, one after the other]",
        rich_help_panel=_RUN,
    ),
]

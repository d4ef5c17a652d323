"""The command ``zoo profile``: what members cost in seconds on this machine."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cascade_serve.cli.console import table_console
from cascade_serve.engine.onnx import Device
from cascade_serve.errors import ConfigError
from cascade_serve.profiling import BATCH_SIZES, Begin, Profile, ProfileConfig, profile_members

_DEFAULTS = ProfileConfig()


def _join(sizes: tuple[int, ...]) -> str:
    return ",".join(map(str, sizes))


def profile(
    task: Annotated[Path, typer.Argument(metavar="ZOO/TASK", help="Folder of the task.")],
    members: Annotated[
        list[str] | None, typer.Argument(metavar="[MEMBER]...", help="Which members.", show_default="all")
    ] = None,
    *,
    device: Annotated[Device, typer.Option(help="Where members run.")] = _DEFAULTS.device,
    device_id: Annotated[int, typer.Option(metavar="N", help="Which CUDA device.", min=0)] = _DEFAULTS.device_id,
    batch_sizes: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="Images of one run; each is timed. Go as far as --max-batch-size of serve will: it forms no batch"
            " larger than what was timed.",
            show_default="; ".join(f"{_join(sizes)} on {device.value}" for device, sizes in BATCH_SIZES.items()),
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(metavar="N", help="Threads inside one run, as --threads-per-worker of serve.")
    ] = _DEFAULTS.threads,
    seconds_per_size: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time for one member at one batch size, over all rounds.")
    ] = _DEFAULTS.seconds_per_size,
    rounds: Annotated[
        int, typer.Option(metavar="N", help="Members take turns so often; the median counts.")
    ] = _DEFAULTS.rounds,
) -> None:
    """Time members on this machine, each on its own engine, and write their seconds on their cards."""
    try:
        config = ProfileConfig(
            batch_sizes=BATCH_SIZES[device] if batch_sizes is None else _sizes(batch_sizes),
            threads=threads,
            device=device,
            device_id=device_id,
            seconds_per_size=seconds_per_size,
            rounds=rounds,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    with _progress() as begin:
        profiles = profile_members(task, members or None, config, begin)
    console = table_console()
    console.print(_table(profiles, config))
    console.print(_spread(profiles, config), soft_wrap=True)


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--batch-sizes: got {text!r}; must be numbers such as 1,8,32") from None


@contextmanager
def _progress() -> Iterator[Begin]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:

        def begin(total: int) -> Callable[[], None]:
            running = progress.add_task("timing", total=total)
            return lambda: progress.advance(running)

        yield begin


def _table(profiles: tuple[Profile, ...], config: ProfileConfig) -> Table:
    table = Table(
        title="µs an image, by images in a run", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for column in ("member", "engine", "type"):
        table.add_column(column, no_wrap=True)
    for size in config.batch_sizes:
        table.add_column(str(size), justify="right", no_wrap=True)
    for timed in profiles:
        card = timed.member.card
        times = (_micros(timed.seconds[size]) for size in config.batch_sizes)
        table.add_row(timed.member.name, card.engine, card.precision, *times)
    return table


def _micros(seconds: float) -> str:
    """Write microseconds whole, or, where they are few, with three digits: on a GPU an image may take less than one."""
    micros = 1e6 * seconds
    return f"{micros:,.0f}" if micros >= 100 else f"{micros:.3g}"


def _spread(profiles: tuple[Profile, ...], config: ProfileConfig) -> str:
    """Say how far to trust the table."""
    widest, size, name = max(
        (timed.spread[size], size, timed.member.name) for timed in profiles for size in config.batch_sizes
    )
    places = "; ".join(sorted({str(timed.member.card.cost.profiled_on) for timed in profiles}))
    return (
        f"Medians of {config.rounds} rounds, which lie up to {100 * widest:.0f} % apart ({name}, {size} in a run);"
        f" measured on {places}."
    )

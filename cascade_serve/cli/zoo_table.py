"""How a terminal shows members of a zoo: one a line."""

from rich import box
from rich.table import Table

from cascade_serve.cli.console import table_console
from cascade_serve.core.cost import format_flops
from model_zoo.card import Card
from model_zoo.store import ZooMember

_LEGEND = "FLOPs: two a multiply-add, per image, in any type. ECE: calibration error after temperature scaling."


def print_members(members: list[tuple[str, ZooMember]]) -> None:
    """Print a table of members, each with the label that it goes by."""
    table = Table(caption=_LEGEND, caption_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("member", no_wrap=True)
    table.add_column("arch", overflow="fold")
    for column in ("size", "params", "FLOPs", "type", "top-1 % [95 %]", "ECE"):
        table.add_column(column, justify="right", no_wrap=True)
    for label, member in members:
        table.add_row(label, *_row(member.card))
    table_console().print(table)


def _row(card: Card) -> tuple[str, ...]:
    accuracy, calibration = card.accuracy, card.calibration
    top1 = "-"
    if accuracy is not None:
        low, high = accuracy.interval
        top1 = f"{100 * accuracy.top1:.2f} [{100 * low:.1f}, {100 * high:.1f}]"
    return (
        card.architecture,
        f"{card.input.height}x{card.input.width}",
        format_flops(card.cost.params),
        format_flops(card.cost.flops),
        card.precision if card.engine == "onnxruntime" else f"{card.precision} {card.engine}",
        top1,
        f"{calibration.ece_after:.3f}" if calibration is not None else "-",
    )

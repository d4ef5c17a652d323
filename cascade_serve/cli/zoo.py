"""The commands ``zoo add``, ``zoo list`` and ``zoo show``: models become members, and members are looked at."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from pydantic import JsonValue
from rich.table import Table

from cascade_serve.cli.console import table_console
from cascade_serve.cli.descent import descent_facts
from cascade_serve.cli.profile import profile
from cascade_serve.cli.zoo_add import add
from cascade_serve.cli.zoo_table import print_members
from cascade_serve.core.cost import format_seconds
from model_zoo.card import Card, ConversionCard, CostCard
from model_zoo.store import TASK_FILE, ZooMember, list_members, list_tasks, read_member


def register(app: typer.Typer) -> None:
    """Add the group ``zoo``."""
    group = typer.Typer(help="Add models to a zoo, time them, and look at them.", no_args_is_help=True)
    group.command("add")(add)
    group.command("profile")(profile)
    group.command("list")(list_zoo)
    group.command("show")(show)
    app.add_typer(group, name="zoo")


def list_zoo(
    zoo: Annotated[Path, typer.Argument(metavar="ZOO", help="Folder of the zoo, or ZOO/TASK for one task.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of cards.")] = False,
) -> None:
    """List the members of a zoo, task by task, from cheap to dear."""
    members = _members(zoo)
    if as_json:
        typer.echo(json.dumps([_card_json(label, member) for label, member in members], indent=2))
        return
    print_members(members)


def _members(zoo: Path) -> list[tuple[str, ZooMember]]:
    """Find all members, labelled by task, with their cards; files are not verified here."""
    is_task = (zoo / TASK_FILE).exists()
    paths = [zoo] if is_task else [zoo / task for task in list_tasks(zoo)]
    found = []
    for path in paths:
        members = [read_member(path / name, verify=False) for name in list_members(path)]
        members.sort(key=lambda member: (member.card.cost.flops, member.name))
        found += [(f"{path.absolute().name}/{member.name}", member) for member in members]
    return found


def _card_json(label: str, member: ZooMember) -> dict[str, JsonValue]:
    card: dict[str, JsonValue] = json.loads(member.card.to_json())
    return {"member": label, **card}


def show(
    member: Annotated[Path, typer.Argument(metavar="ZOO/TASK/NAME", help="Folder of the member.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Show a member's card, and verify its files."""
    card = read_member(member).card
    if as_json:
        typer.echo(card.to_json(), nl=False)
        return
    table = Table(show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in _facts(card):
        table.add_row(label, text)
    table_console().print(table)


def _conversion(conversion: ConversionCard) -> str:
    told = (
        f"the same class on {100 * conversion.same_label:.1f} % of {conversion.n} images, largest logit difference"
        f" {conversion.max_logit_difference:.2g}"
    )
    ranges = conversion.quantisation
    return told if ranges is None else f"{told}; ranges from {ranges.n} images, seed {ranges.seed}"


def _times(cost: CostCard) -> str:
    times = ", ".join(f"{format_seconds(seconds)} at {size}" for size, seconds in sorted((cost.seconds or {}).items()))
    return f"{times} in a run; measured on {cost.profiled_on or 'an unknown machine'}"


def _facts(card: Card) -> Iterator[tuple[str, str]]:
    classes = card.task.classes
    named = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
    yield "member", card.name
    yield "architecture", f"{card.architecture} {json.dumps(card.arguments)}"
    yield "weights", card.provenance.weights
    yield from descent_facts(card)
    yield "task", f"{card.task.height}x{card.task.width}x{card.task.channels}, {len(classes)} classes: {named}"
    yield "network sees", f"{card.input.height}x{card.input.width}, mean {card.input.mean}, std {card.input.std}"
    yield "precision", f"{card.precision} on {card.engine}"
    if card.conversion is not None:
        yield "against its source", _conversion(card.conversion)
    yield "cost per image", f"{card.cost.flops:,} FLOPs = {card.cost.macs:,} multiply-adds; {card.cost.params:,} params"
    if card.cost.seconds:
        yield "time per image", _times(card.cost)
    if card.accuracy is not None:
        low, high = card.accuracy.interval
        yield "top-1", f"{card.accuracy.top1:.4f}, 95 % interval {low:.4f} to {high:.4f}, n = {card.accuracy.n}"
    if card.calibration is not None:
        calibration = card.calibration
        yield "temperature", f"{calibration.temperature:.3f}"
        yield "calibration error", f"{calibration.ece_before:.4f} before, {calibration.ece_after:.4f} after scaling"
    if card.agreement is not None:
        difference = card.agreement.max_logit_difference
        yield "agreement", f"largest logit difference {difference:.2g} on {card.agreement.n} images"
    yield "calibration data", card.provenance.data_sha256 or "-"
    yield "versions", ", ".join(f"{package} {number}" for package, number in card.provenance.versions.items())
    for file, sha256 in card.files.items():
        yield file, f"sha256 {sha256}, verified"

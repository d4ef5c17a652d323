"""The commands ``zoo add``, ``zoo list`` and ``zoo show``: models become members, and members are looked at."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from pydantic import JsonValue
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from cascade_serve.cli.console import table_console
from cascade_serve.cli.descent import descent_facts
from cascade_serve.core.cost import format_flops
from cascade_serve.errors import ConfigError
from cascade_serve.zoo import Addition, Begin, OnnxModel, TorchModel, add_member
from model_zoo.card import Card
from model_zoo.store import TASK_FILE, ZooMember, list_members, list_tasks, read_member

_LEGEND = "FLOPs: two a multiply-add, per image. ECE: calibration error after temperature scaling."
_SOURCE = "The model: --arch or --onnx"
_TORCH = "With --arch"
_ONNX = "With --onnx"
_IMAGES = "Images"
_SCALE = 1 / 255


class Layout(StrEnum):
    """Order of the axes of a user's own graph's input."""

    AUTO = "auto"
    NCHW = "nchw"
    NHWC = "nhwc"


class ChannelOrder(StrEnum):
    """Order of the colours that a user's own graph takes."""

    RGB = "rgb"
    BGR = "bgr"


class Output(StrEnum):
    """Meaning of a user's own graph's output."""

    LOGITS = "logits"
    PROBABILITIES = "probabilities"


def register(app: typer.Typer) -> None:
    """Add the group ``zoo``."""
    group = typer.Typer(help="Add models to a zoo, and look at them.", no_args_is_help=True)
    group.command("add")(add)
    group.command("list")(list_zoo)
    group.command("show")(show)
    app.add_typer(group, name="zoo")


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new member.")],
    *,
    task: Annotated[str, typer.Option(metavar="TASK", help="Task that it solves; its first member makes it.")],
    zoo: Annotated[Path, typer.Option(metavar="ZOO", help="Folder of the zoo; made if absent.")],
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Calibration images, <class>/<file>, JPEG or PNG: none that the model was trained on, and the same"
            " for all members of a task.",
        ),
    ],
    arch: Annotated[
        str | None,
        typer.Option(
            metavar="ARCH",
            help="Architecture: resnet20, resnet9, wrn40_2, digits_cnn_s, ..., timm/NAME or torchvision/NAME.",
            rich_help_panel=_SOURCE,
        ),
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Your own ONNX classifier; needs no torch.", rich_help_panel=_SOURCE),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Weights: .safetensors, .pt or .pth. \\[default: random]",
            rich_help_panel=_TORCH,
        ),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option("--pretrained", help="Weights by timm's or torchvision's own loader.", rich_help_panel=_TORCH),
    ] = False,
    arguments: Annotated[
        str,
        typer.Option(metavar="JSON", help="Arguments of the architecture's builder.", rich_help_panel=_TORCH),
    ] = "{}",
    seed: Annotated[int, typer.Option(min=0, help="Seed of random weights.", rich_help_panel=_TORCH)] = 0,
    layout: Annotated[
        Layout, typer.Option(help="Axes of the graph's input; auto reads its shape.", rich_help_panel=_ONNX)
    ] = Layout.AUTO,
    scale: Annotated[
        float,
        typer.Option(
            help="Pixels 0..255 are multiplied by this before --mean and --std; a graph that takes uint8 gets them as"
            " they are. \\[default: 1/255]",
            show_default=False,
            rich_help_panel=_ONNX,
        ),
    ] = _SCALE,
    channel_order: Annotated[
        ChannelOrder, typer.Option(help="Colours that the graph takes, as in --mean and --std.", rich_help_panel=_ONNX)
    ] = ChannelOrder.RGB,
    output: Annotated[
        Output,
        typer.Option(help="What the graph gives; of probabilities the logarithm is taken.", rich_help_panel=_ONNX),
    ] = Output.LOGITS,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="M[,M,M]",
            help="Subtracted per channel, on the scale where white is 1 (or as --scale makes it)."
            " \\[default: the architecture's; 0 with --onnx]",
            rich_help_panel=_IMAGES,
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            metavar="S[,S,S]",
            help="Divided by per channel, after --mean. \\[default: the architecture's; 1 with --onnx]",
            rich_help_panel=_IMAGES,
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="PIXELS",
            help="Height and width that the network sees; the graph resizes to it. Another size of the same weights"
            " is another member. \\[default: the model's own]",
            rich_help_panel=_IMAGES,
        ),
    ] = None,
    task_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="PIXELS",
            help="Height and width of the task's images, set by its first member. \\[default: the images' common size,"
            " else the model's own]",
            rich_help_panel=_IMAGES,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Calibration images of one run.")] = 32,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a member of that name.")] = False,
) -> None:
    """Make a model a member: export it, check it against its source, calibrate it, and write its card."""
    means, stds = _numbers("--mean", mean), _numbers("--std", std)
    if (arch is None) == (onnx is None):
        raise ConfigError("give either --arch or --onnx")
    model: TorchModel | OnnxModel
    if arch is not None:
        onnx_only = {
            "--layout": layout is not Layout.AUTO,
            "--scale": scale != _SCALE,
            "--channel-order": channel_order is not ChannelOrder.RGB,
            "--output": output is not Output.LOGITS,
        }
        _refuse("--arch", onnx_only)
        if weights is not None and pretrained:
            raise ConfigError("give either --weights or --pretrained")
        model = TorchModel(
            architecture=arch,
            arguments=_json_object(arguments),
            weights=weights,
            pretrained=pretrained,
            mean=means,
            std=stds,
            seed=seed,
        )
    elif onnx is not None:
        torch_only = {
            "--weights": weights is not None,
            "--pretrained": pretrained,
            "--arguments": arguments != "{}",
            "--seed": seed != 0,
        }
        _refuse("--onnx", torch_only)
        model = OnnxModel(
            file=onnx,
            layout=layout.value,
            mean=means,
            std=stds,
            scale=scale,
            channel_order=channel_order.value,
            output=output.value,
        )
    addition = Addition(
        name=name,
        task_path=zoo / task,
        data=data,
        model=model,
        image_size=image_size,
        task_size=task_size,
        batch_size=batch_size,
        overwrite=overwrite,
    )
    with _progress() as begin:
        added = add_member(addition, begin)
    for warning in added.warnings:
        Console(stderr=True, soft_wrap=True).print(f"warning: {warning}", style="yellow", markup=False, highlight=False)
    _print_table([(f"{task}/{name}", added.member)])


def _refuse(source: str, given: dict[str, bool]) -> None:
    for option, is_given in given.items():
        if is_given:
            raise ConfigError(f"{option} does not go with {source}")


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{option}: got {text!r}; must be numbers such as 0.485,0.456,0.406") from None


def _json_object(text: str) -> dict[str, JsonValue]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--arguments: got {text!r}; must be a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f'--arguments: got {text!r}; must be a JSON object such as {{"depth": 26}}')
    return value


@contextmanager
def _progress() -> Iterator[Begin]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:

        def begin(what: str, total: int | None) -> Callable[[int], None]:
            for running in progress.task_ids:
                progress.stop_task(running)
            task = progress.add_task(what, total=total)

            def advance(done: int) -> None:
                progress.advance(task, done)

            return advance

        yield begin


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
    _print_table(members)


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


def _print_table(members: list[tuple[str, ZooMember]]) -> None:
    table = Table(caption=_LEGEND, caption_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("member", no_wrap=True)
    table.add_column("arch", overflow="fold")
    for column in ("size", "params", "FLOPs", "type", "top-1 % [95 %]", "ECE"):
        table.add_column(column, justify="right", no_wrap=True)
    for label, member in members:
        table.add_row(*map(Text, (label, *_row(member.card))))
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
        card.precision,
        top1,
        f"{calibration.ece_after:.3f}" if calibration is not None else "-",
    )


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
        # Class names may hold what rich would take for markup.
        table.add_row(label, Text(text))
    table_console().print(table)


def _facts(card: Card) -> Iterator[tuple[str, str]]:
    classes = card.task.classes
    named = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
    yield "member", card.name
    yield "architecture", f"{card.architecture} {json.dumps(card.arguments)}"
    yield "weights", card.provenance.weights
    yield from descent_facts(card)
    yield "task", f"{card.task.height}x{card.task.width}x{card.task.channels}, {len(classes)} classes: {named}"
    yield "network sees", f"{card.input.height}x{card.input.width}, mean {card.input.mean}, std {card.input.std}"
    yield "precision", card.precision
    yield "cost per image", f"{card.cost.flops:,} FLOPs = {card.cost.macs:,} multiply-adds; {card.cost.params:,} params"
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

"""The command ``zoo add``: a model becomes a member."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from pydantic import JsonValue
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cascade_serve.cli.zoo_table import print_members
from cascade_serve.errors import ConfigError
from cascade_serve.zoo import Addition, Begin, OnnxModel, Quantisation, TorchModel, add_member
from model_zoo.card import EngineName

_SOURCE = "The model: --arch or --onnx"
_TORCH = "With --arch"
_ONNX = "With --onnx"
_IMAGES = "Images"
_PRECISION = "Precision and engine"
_SCALE = 1 / 255
_QUANTISATION_IMAGES = 512


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


class AddedPrecision(StrEnum):
    """What a member computes in."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


class Calibrator(StrEnum):
    """What runs the calibration images."""

    ONNX = "onnx"
    OPENVINO = "openvino"
    TORCH = "torch"


_ENGINES: dict[Calibrator, EngineName] = {
    Calibrator.ONNX: "onnxruntime",
    Calibrator.OPENVINO: "openvino",
    Calibrator.TORCH: "torch",
}


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
    precision: Annotated[
        AddedPrecision | None,
        typer.Option(
            help="What the member computes in: each precision is a member of its own. \\[default: the model's own]",
            rich_help_panel=_PRECISION,
        ),
    ] = None,
    engine: Annotated[
        Calibrator,
        typer.Option(
            help="What runs the calibration images, and is to serve the member: ONNX Runtime (fp32, fp16, int8),"
            " OpenVINO (fp32, fp16, bf16, int8, as the processor has them), or torch (fp32, fp16, bf16; on a GPU where"
            " there is one).",
            rich_help_panel=_PRECISION,
        ),
    ] = Calibrator.ONNX,
    quantisation_data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Training images, <class>/<file>, that show the ranges of an int8 member's activations.",
            rich_help_panel=_PRECISION,
        ),
    ] = None,
    quantisation_images: Annotated[
        int, typer.Option(metavar="N", help="How many of them are drawn, at most.", rich_help_panel=_PRECISION)
    ] = _QUANTISATION_IMAGES,
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
        precision=precision.value if precision is not None else None,
        engine=_ENGINES[engine],
        quantisation=_quantisation(quantisation_data, quantisation_images),
        image_size=image_size,
        task_size=task_size,
        batch_size=batch_size,
        overwrite=overwrite,
    )
    with _progress() as begin:
        added = add_member(addition, begin)
    for warning in added.warnings:
        Console(stderr=True, soft_wrap=True).print(f"warning: {warning}", style="yellow", markup=False, highlight=False)
    print_members([(f"{task}/{name}", added.member)])


def _quantisation(data: Path | None, max_images: int) -> Quantisation | None:
    if data is not None:
        return Quantisation(data=data, max_images=max_images)
    if max_images != _QUANTISATION_IMAGES:
        raise ConfigError("--quantisation-images goes with --quantisation-data")
    return None


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

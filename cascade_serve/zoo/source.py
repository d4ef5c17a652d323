"""Loads what becomes a member, of either kind; the one importer of model_zoo's torch half."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from cascade_serve.errors import MissingExtraError
from cascade_serve.zoo.addition import Addition, OnnxModel, TorchModel
from cascade_serve.zoo.calibration import MemberSession, OpenTorch
from model_zoo.card import Precision, TaskCard

if TYPE_CHECKING:
    from model_zoo.graph import ExportedModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A loaded model.

    Attributes:
        size: height and width in pixels that it was made for; None where it has none of its own.
        export: makes its graph for a task.
        open_torch: loads its network into torch; None where it has none.
        write_files: writes what belongs beside the graph into a folder.
        architecture, arguments, weights: for the card.
        seeds: of random weights; empty where they are not random.
        packages: whose versions matter to it.
    """

    size: tuple[int, int] | None
    export: Callable[[TaskCard], "ExportedModel"]
    open_torch: OpenTorch | None
    write_files: Callable[[TaskCard, Path], None]
    architecture: str
    arguments: dict[str, JsonValue]
    weights: str
    seeds: tuple[int, ...]
    packages: tuple[str, ...]


def require_packages(addition: Addition) -> None:
    """Refuse at once what this installation lacks.

    Raises:
        MissingExtraError: a package is needed and absent.
    """
    needed = {"onnx": "plan", "scipy": "plan", "onnxruntime": "cpu"}
    if addition.engine == "openvino":
        needed["openvino"] = "openvino"
    if isinstance(addition.model, TorchModel):
        needed |= {"torch": "train", "onnxscript": "train"}
        library = addition.model.architecture.partition("/")[0]
        needed |= {library: "train"} if library in ("timm", "torchvision") else {}
    for package, extra in needed.items():
        if find_spec(package) is None:
            raise MissingExtraError(package, extra)


def load_source(addition: Addition, classes: int, channels: int) -> Source:
    """Load a model.

    Args:
        addition: what is asked for.
        classes: of the task.
        channels: of the task's images, for an architecture that can be built for either.

    Raises:
        ZooError: the model can't be built or read, or does not fit.
    """
    if isinstance(addition.model, TorchModel):
        return _load_torch(addition.model, classes, channels, addition.image_size)
    return _load_onnx(addition.model, addition.image_size)


def _load_torch(model: TorchModel, classes: int, channels: int, image_size: int | None) -> Source:
    from model_zoo import export, weights
    from model_zoo.preamble import Preamble
    from model_zoo.registry import build_model
    from model_zoo.served import ServedModule

    built = build_model(
        model.architecture,
        classes=classes,
        channels=channels,
        image_size=image_size,
        pretrained=model.pretrained,
        arguments=model.arguments,
        seed=model.seed,
    )
    if model.weights is not None:
        weights.load_weights(built.module, model.weights)
    preset = built.preset
    mean, std = Preamble(mean=model.mean or preset.mean, std=model.std or preset.std).numbers(preset.channels)
    preset = replace(preset, mean=mean, std=std)
    built = replace(built, preset=preset)

    def open_torch(task: TaskCard, precision: Precision) -> MemberSession:
        from cascade_serve.engine.cuda import TorchSession

        return TorchSession(ServedModule(built.module, built.preset, task).eval(), precision=precision)

    is_random = model.weights is None and not model.pretrained
    return Source(
        size=(preset.height, preset.width),
        export=lambda task: export.export_model(built, task),
        open_torch=open_torch,
        write_files=lambda task, folder: weights.write_weights(built, task, folder),
        architecture=built.architecture,
        arguments=built.arguments,
        weights="pretrained" if model.pretrained else "random" if model.weights is None else model.weights.name,
        seeds=(model.seed,) if is_random else (),
        packages=("torch", "onnxscript", *(name for name in ("timm", "torchvision") if name in model.architecture)),
    )


def _load_onnx(model: OnnxModel, image_size: int | None) -> Source:
    from model_zoo.onnx_classifier import read_classifier
    from model_zoo.preamble import Preamble

    preamble = Preamble(mean=model.mean, std=model.std, scale=model.scale, channel_order=model.channel_order)
    classifier = read_classifier(model.file, layout=model.layout, image_size=image_size)
    return Source(
        size=classifier.size,
        export=lambda task: classifier.adopt(task, preamble, from_probabilities=model.output == "probabilities"),
        open_torch=None,
        write_files=lambda _task, _folder: None,
        architecture="onnx",
        arguments={
            "layout": classifier.layout,
            "scale": model.scale,
            "channel_order": model.channel_order,
            "output": model.output,
        },
        weights=model.file.name,
        seeds=(),
        packages=(),
    )

"""``zoo add``: a model and a folder of labelled images become a member; the one importer of model_zoo's torch half."""
# Shapes: N rows, B rows of a batch, K classes.

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import JsonValue

from cascade_serve import __version__
from cascade_serve.core.arrays import IntArray
from cascade_serve.core.combine import Combine, is_usable, member_score
from cascade_serve.core.interval import wilson_interval
from cascade_serve.errors import ConfigError, MissingExtraError
from model_zoo import image_folder, store
from model_zoo.card import AccuracyCard, CalibrationCard, Card, CostCard, ProvenanceCard, TaskCard, TrainingCard
from model_zoo.errors import CardError, ExportError

if TYPE_CHECKING:
    from model_zoo.graph import ExportedModel

Begin = Callable[[str, int | None], Callable[[int], None]]
"""Told what begins and how many images it takes (None: unknown); gives what is called with images done."""

_SPLIT = "calibration"


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchModel:
    """A member made from an architecture of the registry.

    Attributes:
        architecture: registry name, ``timm/NAME`` or ``torchvision/NAME``.
        arguments: of its builder.
        weights: file to load; None for pretrained or random weights.
        pretrained: load weights by timm's or torchvision's own loader.
        mean, std: replace the architecture's, per channel, on the scale where white is 1.
        seed: of random weights.
    """

    architecture: str
    arguments: Mapping[str, JsonValue] = field(default_factory=dict)
    weights: Path | None = None
    pretrained: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxModel:
    """A member made from a user's own ONNX classifier.

    Attributes:
        file: the ONNX file.
        layout: of its input; ``auto`` reads it from the input's shape.
        mean, std: per channel, on the scale that ``scale`` makes; None is 0 and 1.
        scale: pixels 0..255 are multiplied by this first.
        channel_order: of the colours that it takes; ``mean`` and ``std`` follow it.
        output: what its output means.
    """

    file: Path
    layout: Literal["auto", "nchw", "nhwc"] = "auto"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float = 1 / 255
    channel_order: Literal["rgb", "bgr"] = "rgb"
    output: Literal["logits", "probabilities"] = "logits"


@dataclass(frozen=True, kw_only=True, slots=True)
class Descent:
    """How a member's weights came about, for its card; told by whoever trained them.

    Attributes:
        training: what it took; None where nobody knows.
        train_sha256: fingerprint of the images that it was trained on.
        selection, policy_schedule, data_schedule: how these were chosen (by which proxy), augmented and scheduled.
        seeds: of the training.
    """

    training: TrainingCard | None = None
    train_sha256: str | None = None
    selection: JsonValue = None
    policy_schedule: JsonValue = None
    data_schedule: JsonValue = None
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Addition:
    """What ``zoo add`` is asked for.

    Attributes:
        name: of the new member.
        task_path: ``zoo/<task>``.
        data: folder of calibration images, ``<class>/<file>``.
        model: what becomes the member.
        descent: how its weights came about.
        image_size: height and width of the network's input, pixels; None is the model's own.
        task_size: height and width of the task's images, pixels; None is the images' common size, else the model's.
            Only the first member of a task chooses.
        batch_size: images of one run.
        overwrite: replace a member of that name.
    """

    name: str
    task_path: Path
    data: Path
    model: TorchModel | OnnxModel
    descent: Descent = Descent()
    image_size: int | None = None
    task_size: int | None = None
    batch_size: int = 32
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Added:
    """A new member, and what its owner should know.

    Attributes:
        member: as it lies in the zoo.
        warnings: sentences.
    """

    member: store.ZooMember
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """A loaded model, of either kind."""

    size: tuple[int, int] | None
    export: Callable[[TaskCard], "ExportedModel"]
    write_files: Callable[[TaskCard, Path], None]
    architecture: str
    arguments: dict[str, JsonValue]
    weights: str
    seeds: tuple[int, ...]
    packages: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rows:
    data: store.CalibrationData
    sha256: str


def add_member(addition: Addition, begin: Begin) -> Added:
    """Make a member: export, check, run the calibration images through ONNX Runtime, and write it with its card.

    Args:
        addition: what is asked for.
        begin: hears of progress.

    Raises:
        ZooError: a file, image, model or name is at fault, or the member does not fit its task.
        ConfigError: the options contradict each other.
        MissingExtraError: a package is needed and absent.
    """
    _require_packages(addition.model)
    target = addition.task_path / store.check_name("member", addition.name)
    store.check_name("task", addition.task_path.absolute().name)
    store.check_free(target, overwrite=addition.overwrite)
    folder = image_folder.scan_image_folder(addition.data)
    bound = _read_bound_task(addition.task_path, folder)
    layout = _layout(bound, folder, begin)
    begin("loading the model", None)
    source = _load(addition, len(folder.classes), layout.channels)
    task = _choose_task(addition, folder, source, layout)
    if bound is not None:
        store.check_task(bound, task, addition.task_path / store.TASK_FILE)
    begin("exporting and checking the graph", None)
    exported = source.export(task)
    rows = _calibrate(exported, folder, task, addition.batch_size, begin)
    card = _card(addition, task, source, exported, rows)
    member = _write(addition, card, source, exported, rows)
    return Added(member=member, warnings=_warnings(addition, source, card, rows))


def _require_packages(model: TorchModel | OnnxModel) -> None:
    needed = {"onnx": "plan", "scipy": "plan", "onnxruntime": "cpu"}
    if isinstance(model, TorchModel):
        needed |= {"torch": "train", "onnxscript": "train"}
        library = model.architecture.partition("/")[0]
        needed |= {library: "train"} if library in ("timm", "torchvision") else {}
    for package, extra in needed.items():
        if find_spec(package) is None:
            raise MissingExtraError(package, extra)


def _read_bound_task(task_path: Path, folder: image_folder.ImageFolder) -> TaskCard | None:
    """Read the task that earlier members bound, and refuse other class names before anything is loaded."""
    file = task_path / store.TASK_FILE
    if not file.exists():
        return None
    bound = store.read_task(task_path)
    store.check_task(bound, bound.model_copy(update={"classes": folder.classes}), file)
    return bound


def _layout(bound: TaskCard | None, folder: image_folder.ImageFolder, begin: Begin) -> image_folder.FolderLayout:
    """Take the images' layout from the task, or, for its first member, from all images."""
    if bound is not None:
        return image_folder.FolderLayout(size=(bound.height, bound.width), channels=bound.channels)
    return image_folder.inspect_layout(folder, progress=begin("reading image headers", len(folder)))


def _choose_task(
    addition: Addition, folder: image_folder.ImageFolder, source: _Source, layout: image_folder.FolderLayout
) -> TaskCard:
    """Take the size that was asked for, else that of the task or of all images, else the model's."""
    asked = addition.task_size
    size = (asked, asked) if asked is not None else layout.size or source.size
    if size is None:
        raise ConfigError("task size: the images differ in size and the model has none of its own; give --task-size")
    return TaskCard(height=size[0], width=size[1], channels=layout.channels, classes=folder.classes)


def _load(addition: Addition, classes: int, channels: int) -> _Source:
    if isinstance(addition.model, TorchModel):
        return _load_torch(addition.model, classes, channels, addition.image_size)
    return _load_onnx(addition.model, addition.image_size)


def _load_torch(model: TorchModel, classes: int, channels: int, image_size: int | None) -> _Source:
    from model_zoo import export, weights
    from model_zoo.preamble import Preamble
    from model_zoo.registry import build_model

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
    is_random = model.weights is None and not model.pretrained
    return _Source(
        size=(preset.height, preset.width),
        export=lambda task: export.export_model(built, task),
        write_files=lambda task, folder: weights.write_weights(built, task, folder),
        architecture=built.architecture,
        arguments=built.arguments,
        weights="pretrained" if model.pretrained else "random" if model.weights is None else model.weights.name,
        seeds=(model.seed,) if is_random else (),
        packages=("torch", "onnxscript", *(name for name in ("timm", "torchvision") if name in model.architecture)),
    )


def _load_onnx(model: OnnxModel, image_size: int | None) -> _Source:
    from model_zoo.onnx_classifier import read_classifier
    from model_zoo.preamble import Preamble

    preamble = Preamble(mean=model.mean, std=model.std, scale=model.scale, channel_order=model.channel_order)
    classifier = read_classifier(model.file, layout=model.layout, image_size=image_size)
    return _Source(
        size=classifier.size,
        export=lambda task: classifier.adopt(task, preamble, from_probabilities=model.output == "probabilities"),
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


def _calibrate(
    exported: "ExportedModel", folder: image_folder.ImageFolder, task: TaskCard, batch_size: int, begin: Begin
) -> _Rows:
    from model_zoo.graph import GraphSession

    if batch_size < 1:
        raise ConfigError(f"batch size: got {batch_size}; must be at least 1")
    session = GraphSession(exported.graph)
    advance = begin("running the calibration images", len(folder))
    logits, digests = [], list[bytes]()
    for batch in image_folder.read_batches(
        folder, height=task.height, width=task.width, channels=task.channels, batch_size=batch_size
    ):
        logits.append(session.logits(batch.images_BHWC))
        digests.extend(batch.digests)
        advance(len(batch.digests))
    data = store.CalibrationData(
        logits_NK=np.concatenate(logits),
        labels_N=folder.labels_N,
        sample_ids_N=image_folder.sample_ids(digests),
    )
    if not is_usable(data.logits_NK).any():
        raise ExportError(f"logits: not finite on any of the {len(folder)} calibration images; the model is broken")
    return _Rows(data=data, sha256=image_folder.fingerprint(folder, digests))


def _card(addition: Addition, task: TaskCard, source: _Source, exported: "ExportedModel", rows: _Rows) -> Card:
    from model_zoo.flops import TOOL

    cost, descent = exported.cost, addition.descent
    seeds = descent.seeds or source.seeds
    return Card(
        name=addition.name,
        architecture=source.architecture,
        arguments=source.arguments,
        task=task,
        input=exported.input,
        precision=exported.precision,
        cost=CostCard(flops=cost.flops, macs=cost.macs, params=cost.params, tool=TOOL),
        training=descent.training,
        accuracy=_accuracy(rows.data, seeds),
        calibration=_calibration(rows),
        agreement=exported.agreement,
        provenance=ProvenanceCard(
            data_sha256=rows.sha256,
            weights=source.weights if descent.training is None else "trained",
            train_sha256=descent.train_sha256,
            selection=descent.selection,
            policy_schedule=descent.policy_schedule,
            data_schedule=descent.data_schedule,
            seeds=seeds,
            versions=_versions(("numpy", "onnx", "onnxruntime", *source.packages)),
        ),
    )


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    # Asked of the modules: ONNX Runtime's distributions have several names.
    modules = {package: str(import_module(package).__version__) for package in packages}
    return {"cascade-serve": __version__, "python": platform.python_version()} | modules


def _accuracy(data: store.CalibrationData, seeds: tuple[int, ...]) -> AccuracyCard:
    correct = int(np.count_nonzero(is_usable(data.logits_NK) & (data.logits_NK.argmax(axis=1) == data.labels_N)))
    n = len(data.labels_N)
    return AccuracyCard(split=_SPLIT, n=n, top1=correct / n, interval=wilson_interval(correct, n), seeds=seeds)


def _calibration(rows: _Rows) -> CalibrationCard:
    from cascade_serve.planner.calibration import expected_calibration_error, fit_temperature

    def error(temperature: float) -> float:
        labels_N: IntArray = rows.data.labels_N
        score_NK = member_score(Combine.MEAN_PROBS, rows.data.logits_NK, temperature)
        return expected_calibration_error(score_NK, labels_N)

    temperature = fit_temperature(rows.data.logits_NK, rows.data.labels_N)
    return CalibrationCard(
        temperature=temperature, ece_before=error(1.0), ece_after=error(temperature), split_sha256=rows.sha256
    )


def _warnings(addition: Addition, source: _Source, card: Card, rows: _Rows) -> tuple[str, ...]:
    warnings = []
    num_lost = int(np.count_nonzero(~is_usable(rows.data.logits_NK)))
    if num_lost:
        warnings.append(
            f"member {addition.name!r} gave no finite logits on {num_lost} of {len(rows.data.labels_N)} images; they"
            " count as wrong"
        )
    if source.seeds:
        warnings.append(
            f"member {addition.name!r} has RANDOM weights (seed {source.seeds[0]}): give --weights or --pretrained"
        )
    others = (name for name in store.list_members(addition.task_path) if name != addition.name)
    for name in others:
        try:
            other = store.read_member(addition.task_path / name, verify=False)
        except CardError as error:
            warnings.append(f"member {name!r} can't be read: {error}")
            continue
        if other.card.provenance.data_sha256 != card.provenance.data_sha256:
            warnings.append(
                f"member {name!r} was calibrated on other images; planning needs the same images for all members"
            )
    return tuple(warnings)


def _write(addition: Addition, card: Card, source: _Source, exported: "ExportedModel", rows: _Rows) -> store.ZooMember:
    from model_zoo.graph import write_graph

    with store.new_member(addition.task_path, addition.name, overwrite=addition.overwrite) as folder:
        write_graph(exported.graph, card, folder / store.GRAPH_FILE)
        source.write_files(card.task, folder)
        store.write_calibration(folder, rows.data)
        store.write_card(folder, card)
        # Last, so that a member that can't be written binds nobody.
        store.bind_task(addition.task_path, card.task)
    return store.read_member(addition.task_path / addition.name)

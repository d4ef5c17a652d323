"""What ``zoo add`` is asked for, and what it gives back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from cascade_serve.errors import ConfigError
from model_zoo import store
from model_zoo.card import EngineName, Precision, TrainingCard

Begin = Callable[[str, int | None], Callable[[int], None]]
"""Told what begins and how many images it takes (None: unknown); gives what is called with images done."""

PRECISIONS: Mapping[EngineName, tuple[Precision, ...]] = {
    "onnxruntime": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "fp16", "bf16", "int8"),
    "torch": ("fp32", "fp16", "bf16"),
}
"""What the engines that calibrate compute in. ONNX Runtime has no bf16 convolution on a CPU; which of OpenVINO's a
processor has, OpenVINO says itself."""


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
class Quantisation:
    """Which images show an int8 member's ranges.

    Attributes:
        data: folder of training images, ``<class>/<file>``; not the calibration images.
        max_images: how many are drawn from it, at most.
        seed: of the draw.
    """

    data: Path
    max_images: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.max_images <= 10_000:
            raise ConfigError(f"quantisation images: got {self.max_images}; must be from 1 to 10000")


@dataclass(frozen=True, kw_only=True, slots=True)
class Addition:
    """What ``zoo add`` is asked for.

    Attributes:
        name: of the new member.
        task_path: ``zoo/<task>``.
        data: folder of calibration images, ``<class>/<file>``.
        model: what becomes the member.
        descent: how its weights came about.
        precision: what it computes in; None is the model's own, which is fp32 unless a user's graph is another.
        engine: what computes its calibration logits, and so what it is meant to be served on.
        quantisation: goes with int8, and with nothing else.
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
    precision: Precision | None = None
    engine: EngineName = "onnxruntime"
    quantisation: Quantisation | None = None
    image_size: int | None = None
    task_size: int | None = None
    batch_size: int = 32
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch size: got {self.batch_size}; must be at least 1")
        if self.engine not in PRECISIONS:
            raise ConfigError(f"engine: got {self.engine!r}; must be one of {', '.join(PRECISIONS)}")
        if self.engine == "torch" and isinstance(self.model, OnnxModel):
            raise ConfigError("engine: got torch; a member made from an ONNX file has no torch network")
        if self.precision is not None:
            check_precision(self.precision, self.engine)
        if self.precision == "int8" and self.quantisation is None:
            raise ConfigError("precision int8: got no --quantisation-data; must be a folder of training images")
        if self.precision != "int8" and self.quantisation is not None:
            raise ConfigError("--quantisation-data goes with --precision int8 alone")


def check_precision(precision: Precision, engine: EngineName) -> None:
    """Refuse a precision that an engine lacks.

    Raises:
        ConfigError: it does; the message names those that it has, and the engines that have this one.
    """
    known = PRECISIONS[engine]
    if precision not in known:
        others = ", ".join(name for name, has in PRECISIONS.items() if precision in has) or "none"
        raise ConfigError(
            f"precision: got {precision} on {engine}; must be one of {', '.join(known)}; engines that have"
            f" {precision}: {others}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Added:
    """A new member, and what its owner should know.

    Attributes:
        member: as it lies in the zoo.
        warnings: sentences.
    """

    member: store.ZooMember
    warnings: tuple[str, ...]

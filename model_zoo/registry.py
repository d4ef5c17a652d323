"""Architectures by name: the zoo's own (see ``architectures.catalogue``), any ``timm/NAME`` or ``torchvision/NAME``."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import JsonValue
from torch import nn

from model_zoo.architectures.catalogue import CATALOGUE, InputPreset
from model_zoo.errors import ExportError, UnknownArchitectureError

TIMM = "timm/"
TORCHVISION = "torchvision/"
_TIMM_SOURCES = ("hf-hub:", "local-dir:")


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltModel:
    """A network, ready to be trained or exported.

    Attributes:
        module: takes float32 [B, channels, height, width], normalised, and gives logits float32 [B, K].
        architecture: the name it was built by.
        arguments: those that build it again.
        preset: its input, at the size it was built for.
    """

    module: nn.Module
    architecture: str
    arguments: dict[str, JsonValue]
    preset: InputPreset


@dataclass(frozen=True, kw_only=True, slots=True)
class _Order:
    """The arguments of :func:`build_model`."""

    name: str
    classes: int
    channels: int
    image_size: int | None
    pretrained: bool
    arguments: dict[str, JsonValue]


def architecture_names() -> tuple[str, ...]:
    """Name the zoo's own architectures, in the catalogue's order."""
    return tuple(CATALOGUE)


def build_model(
    name: str,
    *,
    classes: int,
    channels: int = 3,
    image_size: int | None = None,
    pretrained: bool = False,
    arguments: Mapping[str, JsonValue] | None = None,
    seed: int = 0,
) -> BuiltModel:
    """Build a network.

    Args:
        name: one of :func:`architecture_names`, ``timm/NAME`` or ``torchvision/NAME``.
        classes: K, at least 1.
        channels: wanted of the input; networks of timm and torchvision keep their own (see the result's preset).
        image_size: height and width of the input in pixels; None takes the architecture's own.
        pretrained: load weights by timm's or torchvision's own loader.
        arguments: of the builder, over the entry's.
        seed: of random weights; the global generator is left as it was.

    Raises:
        UnknownArchitectureError: no such name; the message gives close matches.
        ExportError: the builder refuses its arguments, or pretrained weights are absent, unreachable or of another
            number of classes.
    """
    if image_size is not None and image_size < 1:
        raise ExportError(f"image size: got {image_size}; must be at least 1 pixel")
    builder = _builder(name)
    order = _Order(
        name=name,
        classes=classes,
        channels=channels,
        image_size=image_size,
        pretrained=pretrained,
        arguments=dict(arguments or {}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return builder(order)
        except (TypeError, ValueError, ZeroDivisionError, RuntimeError, OSError) as error:
            raise ExportError(f"architecture {name!r} with arguments {order.arguments}: {error}") from error


def check_runs(built: BuiltModel, height: int, width: int, channels: int) -> None:
    """Let a network look at one image: pooling may leave nothing of a small one.

    Args:
        built: on the CPU, in evaluation mode, as :func:`build_model` gives it; left as it was.
        height, width: of the image, pixels.
        channels: of the image.

    Raises:
        ExportError: it can't; the message names the size.
    """
    try:
        with torch.inference_mode():
            built.module(torch.zeros(1, channels, height, width))
    # Assertions are how timm's networks refuse a size.
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ExportError(
            f"images: got {height}x{width} pixels of {channels} channels, which architecture"
            f" {built.architecture!r} can't run on: {error}"
        ) from error


_Builder = Callable[[_Order], BuiltModel]


def _builder(name: str) -> _Builder:
    if name in CATALOGUE:
        return _build_own
    if name.startswith(TIMM) and _is_timm(name.removeprefix(TIMM)):
        return _build_timm
    if name.startswith(TORCHVISION) and name.removeprefix(TORCHVISION) in _torchvision_names():
        return _build_torchvision
    close = difflib.get_close_matches(name, _candidates(name), n=5)
    hint = f"close: {', '.join(close)}" if close else f"known: {', '.join(CATALOGUE)}, timm/NAME, torchvision/NAME"
    raise UnknownArchitectureError(f"architecture: got {name!r}, which is unknown; {hint}")


def _candidates(name: str) -> list[str]:
    import timm

    timm_names = [TIMM + known for known in timm.list_models()]
    torchvision_names = [TORCHVISION + known for known in _torchvision_names()]
    bare = [prefix + name for prefix in (TIMM, TORCHVISION) if prefix + name in (*timm_names, *torchvision_names)]
    return bare or [*CATALOGUE, *timm_names, *torchvision_names]


def _build_own(order: _Order) -> BuiltModel:
    entry = CATALOGUE[order.name]
    if order.pretrained:
        raise ValueError("no pretrained weights are published for it; give a file with --weights")
    preset = entry.preset.with_channels(order.channels)
    if order.image_size is not None:
        preset = replace(preset, height=order.image_size, width=order.image_size)
    size: dict[str, JsonValue] = {"image_size": preset.height} if entry.has_fixed_size else {}
    arguments = {**entry.arguments, **size, **order.arguments}
    module = entry.build(classes=order.classes, channels=order.channels, **arguments)
    return BuiltModel(module=module.eval(), architecture=order.name, arguments=arguments, preset=preset)


def _is_timm(name: str) -> bool:
    import timm

    return name.startswith(_TIMM_SOURCES) or timm.is_model(name.partition(".")[0])


def _build_timm(order: _Order) -> BuiltModel:
    import timm

    create: Callable[..., Any] = timm.create_model
    model, arguments = order.name.removeprefix(TIMM), order.arguments
    config = None if model.startswith(_TIMM_SOURCES) else timm.get_pretrained_cfg(model)
    if config is not None:
        if order.pretrained:
            _check_classes(config.num_classes, order.classes)
        if order.image_size is not None and config.fixed_input_size:
            arguments = {"img_size": order.image_size, **arguments}
    # A pretrained head is kept as it is, so that its classes can be checked: timm would silently draw a new one.
    head = {} if order.pretrained else {"num_classes": order.classes}
    module = create(model, pretrained=order.pretrained, **head, **arguments)
    _check_classes(module.num_classes, order.classes)
    channels, height, width = module.pretrained_cfg["input_size"]
    preset = InputPreset(
        height=order.image_size or height,
        width=order.image_size or width,
        channels=channels,
        mean=tuple(module.pretrained_cfg["mean"]),
        std=tuple(module.pretrained_cfg["std"]),
    )
    return BuiltModel(module=module.eval(), architecture=order.name, arguments=arguments, preset=preset)


def _torchvision_names() -> list[str]:
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return names


def _build_torchvision(order: _Order) -> BuiltModel:
    from torchvision import models

    model, arguments = order.name.removeprefix(TORCHVISION), order.arguments
    weights = models.get_model_weights(model).DEFAULT
    transforms = weights.transforms()
    size = order.image_size or transforms.crop_size[0]
    if model.startswith("vit_") and size != transforms.crop_size[0]:
        arguments = {"image_size": size, **arguments}
    chosen: dict[str, Any] = {"weights": None, "num_classes": order.classes}
    if order.pretrained:
        _check_classes(len(weights.meta["categories"]), order.classes)
        chosen = {"weights": weights}
    elif model in ("googlenet", "inception_v3"):
        # These two warn unless they are told how to draw weights.
        chosen["init_weights"] = True
    module = models.get_model(model, **chosen, **arguments)
    preset = InputPreset(height=size, width=size, channels=3, mean=tuple(transforms.mean), std=tuple(transforms.std))
    return BuiltModel(module=module.eval(), architecture=order.name, arguments=arguments, preset=preset)


def _check_classes(found: int, classes: int) -> None:
    if found != classes:
        raise ValueError(f"the model has {found} classes; the data have {classes}")

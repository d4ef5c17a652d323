"""Weights on disk: read into a module by name, and written beside a member in timm's convention."""

import json
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model_zoo.card import TaskCard
from model_zoo.errors import ExportError
from model_zoo.registry import TIMM, BuiltModel
from model_zoo.store import CONFIG_FILE, WEIGHTS_FILE

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PARALLEL_PREFIX = "module."
_COUNTER = "num_batches_tracked"
# What the libraries raise on damaged files; torch's unpickler lets through whatever its opcodes run into.
_BROKEN = (
    SafetensorError, pickle.UnpicklingError, struct.error, AssertionError, AttributeError, EOFError, LookupError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a file's weights into a module, by name and shape, strictly.

    Counters of batch normalisation may be absent, and a prefix ``module.`` on all names is dropped.

    Args:
        module: what to load into; changed in place.
        path: ``.safetensors``, or ``.pt`` or ``.pth``, which are read without running code.

    Raises:
        ExportError: the file can't be read, or names or shapes differ; the message lists some.
    """
    weights = _unwrap(_read_weights(path))
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in weights and not name.endswith(_COUNTER)]
    unexpected = [name for name in weights if name not in wanted]
    if missing or unexpected:
        raise ExportError(f"{path}: names: missing {_some(missing)}; unexpected {_some(unexpected)}")
    for name, tensor in weights.items():
        if tensor.shape != wanted[name].shape:
            raise ExportError(f"{path}: {name}: got shape {list(tensor.shape)}; must be {list(wanted[name].shape)}")
    module.load_state_dict(weights, strict=False)


def _read_weights(path: Path) -> Any:
    try:
        match path.suffix:
            case ".safetensors":
                return load_file(path)
            case ".pt" | ".pth":
                return torch.load(path, map_location="cpu", weights_only=True)
            case suffix:
                raise ExportError(f"{path}: weights: got suffix {suffix!r}; must be .safetensors, .pt or .pth")
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror or error}") from error
    except _BROKEN as error:
        raise ExportError(f"{path}: no weights, or broken: {error}") from error


def _unwrap(content: Any) -> dict[str, Tensor]:
    """Take the weights out of a training checkpoint, and a parallel wrapper's prefix off their names."""
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise ExportError(f"weights: got {type(content).__name__}; must be a mapping of names to tensors")
    if content and all(name.startswith(_PARALLEL_PREFIX) for name in content):
        return {name.removeprefix(_PARALLEL_PREFIX): tensor for name, tensor in content.items()}
    return dict(content)


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:5])} and {len(names) - 5} more" if len(names) > 5 else ", ".join(names) or "none"


def write_weights(built: BuiltModel, task: TaskCard, folder: Path) -> None:
    """Write config.json and model.safetensors, which timm reads back as ``local-dir:FOLDER`` for its own models."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in built.module.state_dict().items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    preset = built.preset
    config = {
        "architecture": built.architecture.removeprefix(TIMM).partition(".")[0],
        "num_classes": len(task.classes),
        "label_names": list(task.classes),
        "model_args": built.arguments,
        "pretrained_cfg": {
            **_timm_config(built.module),
            "num_classes": len(task.classes),
            "input_size": [preset.channels, preset.height, preset.width],
            "mean": list(preset.mean),
            "std": list(preset.std),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
        },
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _timm_config(module: nn.Module) -> dict[str, object]:
    config = getattr(module, "pretrained_cfg", {})
    return {key: config[key] for key in ("fixed_input_size", "first_conv", "classifier", "pool_size") if key in config}

"""Trained weights on disk: one .safetensors file, whole or not there."""

import json
import secrets
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from training.errors import WeightsError

METADATA_KEY = "training"


def write_weights(model: nn.Module, path: Path, metadata: Mapping[str, str | int] | None = None) -> None:
    """Write a model's parameters and buffers under their own names.

    Args:
        model: what was trained.
        path: ends in ``.safetensors``; an existing file is replaced only when the new one is complete.
        metadata: kept in the file's header, as JSON under ``METADATA_KEY``: several keys would be written in an order
            of chance, and the same run must give the same bytes.

    Raises:
        WeightsError: the path has another suffix or can't be written.
    """
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: suffix: got {path.suffix!r}; must be .safetensors")
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(tensors, partial, metadata={METADATA_KEY: json.dumps(metadata or {}, sort_keys=True)})
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(f"{error.filename or path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise WeightsError(f"{path}: {error}") from error

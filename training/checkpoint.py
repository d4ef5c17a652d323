"""A run's whole state in a file, so that a killed run goes on as if nothing had happened."""

import io
import pickle
import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from training.energy import Energy
from training.errors import CheckpointError
from training.files import write_whole
from training.reports import EpochReport

_VERSION = 1

UNREADABLE = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)
"""What a damaged file of torch's may raise, while it is unpickled or its content taken up: it depends on where."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """What a run has come to.

    Attributes:
        run: state of a ``TrainingRun``.
        reports: of the epochs done.
        energy: used so far.
    """

    run: Mapping[str, Any]
    reports: Sequence[EpochReport]
    energy: Energy


def write_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint, whole or not at all; an older one is replaced.

    Args:
        checkpoint: tensors of any device and plain values.
        path: the file; its folder is made where it is absent.

    Raises:
        CheckpointError: the file can't be written.
    """
    buffer = io.BytesIO()
    content = {
        "version": _VERSION,
        "run": dict(checkpoint.run),
        "reports": [asdict(report) for report in checkpoint.reports],
        "energy": asdict(checkpoint.energy),
    }
    torch.save(content, buffer)
    try:
        write_whole(path, buffer.getvalue())
    except OSError as error:
        raise CheckpointError(f"{error.filename or path}: {error.strerror or error}") from error


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Read a checkpoint to the CPU; only tensors and plain values are unpickled, never code.

    Args:
        path: the file.

    Returns:
        the checkpoint; None where there is no file.

    Raises:
        CheckpointError: the file can't be read, or is no checkpoint.
    """
    try:
        with warnings.catch_warnings():
            # Of a pickle's protocol: files that are not torch's have another one.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    except UNREADABLE as error:
        raise CheckpointError(f"{path}: is damaged or no checkpoint; remove it to start anew") from error
    version = content.get("version") if isinstance(content, dict) else None
    if version != _VERSION:
        raise CheckpointError(f"{path}: version: got {version}; must be {_VERSION}; remove it to start anew")
    try:
        return Checkpoint(
            run=content["run"],
            reports=tuple(EpochReport(**report) for report in content["reports"]),
            energy=Energy(**content["energy"]),
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: has other fields than this version writes; remove it to start anew") from error

"""Decoded data sets beside a run, so that a resumed one needn't decode again."""

import hashlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import __version__ as pillow_version
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from training.data.data_set import DataSet, DataSource, LoadProgress, ResizedFile, SkippedFile
from training.data.file_list import files_sha256
from training.data.images import LabelledImages
from training.errors import DataError
from training.settings import to_json

_VERSION = 1
"""Of the layout; another one is read anew."""
_METADATA_KEY = "data_set"
_ARRAYS = ("images_BHWC", "labels_B", "ids_B")


def load_cached(source: DataSource, root: Path | None, cache: Path, *, progress: LoadProgress | None = None) -> DataSet:
    """Load a data set, from the cache where its files and the source's choices are the same as they were.

    Files are compared by path, size and time of change, not by content. A damaged cache is made anew.

    Args:
        source: where the data come from.
        root: where the user has put them; without, there are no files and nothing is kept.
        cache: a folder; gets one ``data-<fingerprint>.safetensors``, which replaces older ones.
        progress: told how far the reading is, where there is something to read.

    Raises:
        DataError: the data can't be read, or the cache can't be written.
    """
    if root is None:
        return source.load(root, progress=progress)
    path = cache / f"data-{_key(source, root)}.safetensors"
    data = _read(path)
    if data is None:
        data = source.load(root, progress=progress)
        _write(data, path)
    return data


def _key(source: DataSource, root: Path) -> str:
    """Fingerprint the source's choices and the list of files."""
    choices = {"version": _VERSION, "pillow": pillow_version, "source": to_json(source)}
    text = json.dumps({**choices, "files": files_sha256(root)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _write(data: DataSet, path: Path) -> None:
    parts = {"train": data.train} if data.test is None else {"train": data.train, "test": data.test}
    arrays = {
        f"{part}.{name}": np.ascontiguousarray(getattr(images, name))
        for part, images in parts.items()
        for name in _ARRAYS
    }
    content = {
        "classes": data.train.classes,
        "skipped": [to_json(file) for file in data.skipped],
        "resized": [to_json(file) for file in data.resized],
        "sha256": data.sha256,
    }
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(arrays, partial, metadata={_METADATA_KEY: json.dumps(content)})
            for older in path.parent.glob("data-*.safetensors"):
                older.unlink()
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{error.filename or path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise DataError(f"{path}: {error}") from error


def _read(path: Path) -> DataSet | None:
    """Give what was kept; None where nothing was, or it is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            content = json.loads(file.metadata()[_METADATA_KEY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        data = _rebuild(arrays, content)
        return data if data.sha256 == content["sha256"] else None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, DataError):
        return None


def _rebuild(arrays: Mapping[str, Any], content: Mapping[str, Any]) -> DataSet:
    classes = tuple(content["classes"])
    parts = {
        part: LabelledImages(**{name: arrays[f"{part}.{name}"] for name in _ARRAYS}, classes=classes)
        for part in ("train", "test")
        if f"{part}.labels_B" in arrays
    }
    return DataSet(
        train=parts["train"],
        test=parts.get("test"),
        skipped=tuple(SkippedFile(**file) for file in content["skipped"]),
        resized=tuple(ResizedFile(**file) for file in content["resized"]),
    )

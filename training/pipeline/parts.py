"""The parts of a data set as files: what every later stage reads."""
# Shapes: B rows.

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from training.data.data_set import DataSet
from training.data.images import LabelledImages
from training.data.splits import PARTS, Splits, write_splits
from training.data.statistics import ChannelStatistics
from training.errors import DataError, MemberExportError
from training.files import write_whole
from training.inputs import Normalisation

FACTS_FILE = "data.json"
SPLITS_FILE = "splits.json"
_CLASSES = "classes"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Parts:
    """Disjoint parts of a data set, and how pixels are normalised.

    Attributes:
        by_name: ``train``, ``calibration``, ``test``, and ``policy_validation`` where a search needs it.
        normalisation: from train.
    """

    by_name: Mapping[str, LabelledImages]
    normalisation: Normalisation

    @property
    def train(self) -> LabelledImages:
        """Images to train on."""
        return self.by_name["train"]

    @property
    def sizes(self) -> str:
        """Each part's number of images, in words."""
        return ", ".join(f"{len(part):,} {name.replace('_', ' ')}" for name, part in self.by_name.items())


def write_parts(
    parts: Mapping[str, LabelledImages], splits: Splits, statistics: ChannelStatistics, data: DataSet, folder: Path
) -> None:
    """Write everything into a folder.

    Raises:
        DataError: it can't be written.
    """
    facts = {
        "images": {name: len(part) for name, part in parts.items()},
        "size": list(data.train.images_BHWC.shape[1:]),
        "classes": list(data.train.classes),
        "normalisation": asdict(statistics.normalisation),
        "fill": list(statistics.fill),
        "skipped": [asdict(file) for file in data.skipped],
        "resized": [asdict(file) for file in data.resized],
    }
    write_splits(splits, folder / SPLITS_FILE)
    try:
        for name, part in parts.items():
            write_images(part, folder / f"{name}.safetensors")
        write_whole(folder / FACTS_FILE, json.dumps(facts, indent=1).encode() + b"\n")
    except OSError as error:
        raise DataError(f"{error.filename or folder}: {error.strerror}") from error


def read_parts(folder: Path) -> Parts:
    """Read what :func:`write_parts` wrote.

    Raises:
        DataError: a file is missing or damaged.
    """
    facts = read_facts(folder)
    names = [name for name in PARTS if name in facts["images"]]
    by_name = {name: read_images(folder / f"{name}.safetensors") for name in names}
    values = facts["normalisation"]
    return Parts(by_name=by_name, normalisation=Normalisation(mean=tuple(values["mean"]), std=tuple(values["std"])))


def read_facts(folder: Path) -> dict[str, Any]:
    """Read what was noted of the data: sizes, classes, normalisation, files left out.

    Raises:
        DataError: the file is missing or damaged.
    """
    file = folder / FACTS_FILE
    try:
        facts: dict[str, Any] = json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{file}: is damaged: {error}") from error
    return facts


def check_exportable(rows: LabelledImages, part: str) -> None:
    """Refuse a part that a zoo's member can't be calibrated or judged on.

    Raises:
        MemberExportError: it lacks a class.
    """
    missing = [name for label, name in enumerate(rows.classes) if label not in rows.labels_B]
    if missing:
        raise MemberExportError(
            f"{part}: got no image of {len(missing)} classes, such as {missing[0]!r}; must be at least one of each:"
            f" make splits.{part} larger"
        )


def write_images(data: LabelledImages, path: Path) -> None:
    """Write labelled images as one .safetensors file; the same images give the same bytes.

    Raises:
        OSError: it can't be written.
    """
    arrays: dict[str, NDArray[Any]] = {"images": data.images_BHWC, "labels": data.labels_B, "ids": data.ids_B}
    save_file(arrays, path, metadata={_CLASSES: json.dumps(data.classes)})


def read_images(path: Path) -> LabelledImages:
    """Read such a file back.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in ("images", "labels", "ids")}
            classes = tuple(json.loads(file.metadata()[_CLASSES]))
    except FileNotFoundError as error:
        raise DataError(f"{path}: No such file or directory") from error
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: is damaged: {error}") from error
    return LabelledImages(images_BHWC=arrays["images"], labels_B=arrays["labels"], ids_B=arrays["ids"], classes=classes)

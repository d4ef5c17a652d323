"""The first stage: images are read, split and measured."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from training.data.data_set import DataSet
from training.data.file_list import files_sha256
from training.data.images import LabelledImages
from training.data.splits import record_splits, split
from training.data.statistics import channel_statistics
from training.errors import DataError
from training.pipeline.listening import Listener
from training.pipeline.order import Order
from training.pipeline.parts import Parts, check_exportable, read_facts, read_parts, write_parts
from training.run_dir import Input, RunDir
from training.settings import to_json

STAGE = "data"
_EXPORTED_PARTS = ("calibration", "test")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Material:
    """What all later stages work on.

    Attributes:
        parts: of the data set.
        folder: where their files lie.
    """

    parts: Parts
    folder: Path

    def file(self, part: str) -> Path:
        """Give the file of a part, which a stage names as its input."""
        return self.folder / f"{part}.safetensors"

    @property
    def normalisation(self) -> JsonValue:
        """How pixels are normalised, as a stage's configuration holds it."""
        return to_json(self.parts.normalisation)


def prepare_data(run: RunDir, order: Order, listener: Listener) -> Material:
    """Read and split the images, or take what lies there.

    Args:
        run: the run's folder.
        order: names source, splits and where the images lie.
        listener: hears of progress.

    Raises:
        DataError: the images can't be read or split, or are all of one class.
        MemberExportError: members are to go to a zoo, and calibration or test lacks a class.
        RunDirError: the folder is at fault.
    """
    config = order.config
    settings: JsonValue = {"source": to_json(config.source), "splits": to_json(config.splits)}
    with run.stage(STAGE, config=settings, inputs=_inputs(order.data)) as stage:
        is_new = not stage.is_done
        if is_new:
            data = in_name_order(config.source.load(order.data, progress=_Loading(listener)))
            _check_classes(data)
            by_name = split(data, config.splits)
            statistics = channel_statistics(by_name["train"].images_BHWC)
            write_parts(by_name, record_splits(data, config.splits, by_name), statistics, data, stage.path)
            parts = Parts(by_name=by_name, normalisation=statistics.normalisation)
            stage.finish({**read_facts(stage.path), "sha256": {name: part.sha256 for name, part in by_name.items()}})
            _tell_left_out(data, listener)
        else:
            parts = read_parts(stage.path)
        listener.tell(f"data: {parts.sizes}{'' if is_new else ' (as before)'}")
        if order.should_export:
            for part in _EXPORTED_PARTS:
                check_exportable(parts.by_name[part], part)
        return Material(parts=parts, folder=stage.path)


def _check_classes(data: DataSet) -> None:
    classes = data.train.classes
    if len(classes) < 2:
        raise DataError(f"classes: got {len(classes)}, {', '.join(classes)}; must be at least 2")


def in_name_order(data: DataSet) -> DataSet:
    """Put the classes in the order of their names: that of the folders which zoos are calibrated and evaluated on."""
    test = None if data.test is None else _sort_classes(data.test)
    return replace(data, train=_sort_classes(data.train), test=test)


def _sort_classes(data: LabelledImages) -> LabelledImages:
    order_K = np.array(sorted(range(len(data.classes)), key=lambda place: data.classes[place]), dtype=np.int64)
    if (order_K[1:] > order_K[:-1]).all():
        return data
    places_K = np.argsort(order_K)
    return replace(data, labels_B=places_K[data.labels_B], classes=tuple(data.classes[place] for place in order_K))


def _inputs(root: Path | None) -> dict[str, Input]:
    return {} if root is None else {"files": files_sha256(root)}


def _tell_left_out(data: DataSet, listener: Listener) -> None:
    for files, what in ((data.skipped, "left out"), (data.resized, "resized")):
        if files:
            listener.tell(f"data: {len(files)} files {what}, such as {files[0].path}; {STAGE}/data.json lists them")


class _Loading:
    """Turns a source's progress into a listener's."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._what = ""
        self._done = 0

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._what, self._done = what, 0
            self._advance = self._listener.begin(f"reading {what}", total)
        self._advance(done - self._done)
        self._done = done

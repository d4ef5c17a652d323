"""Evaluate a served cascade on a labelled image folder: every image is sent once, and every answer counted."""
# Shapes: N images of the folder, B images of a request, K classes, HWC image.

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cascade_serve.core.arrays import BoolArray, FloatArray, IntArray
from cascade_serve.core.interval import wilson_interval
from cascade_serve.errors import CascadeError, ConfigError
from cascade_serve.load.generator import LoadConfig, Progress, run_load
from cascade_serve.load.report import Answer, LoadReport
from cascade_serve.load.traffic import Query, read_answer, read_file, required
from cascade_serve.rpc.client import Client
from cascade_serve.rpc.info import ModelInfo
from cascade_serve.rpc.remote import RemoteError
from model_zoo.image_folder import ImageFolder, read_batches

_SHOWN_CLASSES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """The answers, in the order of the folder's files.

    Attributes:
        label_N: int64 [N], index of the predicted class among the model's.
        confidence_N: float32 [N].
        exit_stage_N: int64 [N], 0-based.
        flops_N: int64 [N].
        certified_N: bool [N].
    """

    label_N: IntArray
    confidence_N: FloatArray
    exit_stage_N: IntArray
    flops_N: IntArray
    certified_N: BoolArray

    @classmethod
    def empty(cls, n: int) -> "Predictions":
        """Make room for the answers of ``n`` images."""
        return cls(
            label_N=np.full(n, -1, dtype=np.int64),
            confidence_N=np.zeros(n, dtype=np.float32),
            exit_stage_N=np.zeros(n, dtype=np.int64),
            flops_N=np.zeros(n, dtype=np.int64),
            certified_N=np.zeros(n, dtype=np.bool_),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassAccuracy:
    """Accuracy on the images of one class.

    Attributes:
        n: images.
        accuracy: share of them that got this class.
    """

    n: int
    accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        n: images.
        accuracy: share of correct answers.
        accuracy_interval: its two-sided 95 % Wilson interval.
        certified_share: share of answers that the policy's certificate covers.
        per_class: class name → accuracy on its images.
        load: FLOPs, exits, latency and throughput.
        predictions: answer by answer.
    """

    n: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    certified_share: float
    per_class: dict[str, ClassAccuracy]
    load: LoadReport
    predictions: Predictions


def match_labels(folder: ImageFolder, classes: Sequence[str], *, model: str) -> IntArray:
    """Give each file's class as an index among the model's classes; matched by name, never by position.

    Args:
        folder: its classes may be some of the model's.
        classes: the model's, in the order of its outputs.
        model: its name, for the message.

    Returns:
        int64 [N].

    Raises:
        ConfigError: the folder holds a class that the model does not know.
    """
    index = {name: position for position, name in enumerate(classes)}
    strangers = [name for name in folder.classes if name not in index]
    if strangers:
        raise ConfigError(
            f"{folder.path}: classes {_some(strangers)} are not among the {len(classes)} of {model}: {_some(classes)}"
        )
    return np.array([index[name] for name in folder.classes], dtype=np.int64)[folder.labels_N]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_CLASSES} more" if len(names) > _SHOWN_CLASSES else ""
    return ", ".join(repr(name) for name in names[:_SHOWN_CLASSES]) + more


def evaluate(
    clients: Sequence[Client],
    query: Query,
    folder: ImageFolder,
    info: ModelInfo,
    *,
    images_per_request: int,
    encoded: bool,
    progress: Progress | None = None,
) -> Evaluation:
    """Send every image of a folder once and compare the answers with its class.

    Args:
        clients: one a concurrent caller; a client may stand there several times.
        query: what to ask.
        folder: what to send.
        info: of the cascade.
        images_per_request: at least 1.
        encoded: send the files as they are, and let the server decode them; else decode here and send pixels.
        progress: told the requests done so far.

    Raises:
        ConfigError: the folder holds a class that the model does not know, or a file can't be read.
        CascadeError: a request failed; the message names its files.
        ImageError: a file can't be read or decoded here; the message names it.
    """
    truth_N = match_labels(folder, info.classes, model=query.model)
    predictions = Predictions.empty(len(folder))
    callers = [
        _FolderCaller(
            client=client,
            query=query,
            folder=folder,
            predictions=predictions,
            images_per_request=images_per_request,
            image_shape=None if encoded else info.image_shape,
        )
        for client in clients
    ]
    config = LoadConfig(seconds=None, count=math.ceil(len(folder) / images_per_request), warm_up_s=0)
    load = run_load(callers, config, progress=progress)
    return _judge(truth_N, predictions, info.classes, load)


def _judge(truth_N: IntArray, predictions: Predictions, classes: Sequence[str], load: LoadReport) -> Evaluation:
    correct_N = predictions.label_N == truth_N
    return Evaluation(
        n=len(truth_N),
        accuracy=float(correct_N.mean()),
        accuracy_interval=wilson_interval(int(correct_N.sum()), len(truth_N)),
        certified_share=float(predictions.certified_N.mean()),
        per_class={
            classes[label]: ClassAccuracy(
                n=int((truth_N == label).sum()), accuracy=float(correct_N[truth_N == label].mean())
            )
            for label in np.unique(truth_N)
        },
        load=load,
        predictions=predictions,
    )


@dataclass(frozen=True, slots=True)
class _Batch:
    rows: slice
    request: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class _FolderCaller:
    """Sends batch after batch of the folder. Callers write to rows of their own, so they need no lock."""

    client: Client
    query: Query
    folder: ImageFolder
    predictions: Predictions
    images_per_request: int
    image_shape: tuple[int, int, int] | None

    def prepare(self, index: int) -> _Batch:
        start = index * self.images_per_request
        rows = slice(start, min(start + self.images_per_request, len(self.folder)))
        files = self.folder.files[rows]
        if self.image_shape is None:
            return _Batch(rows, self.query.encode([read_file(file) for file in files]))
        height, width, channels = self.image_shape
        part = replace(self.folder, files=files, labels_N=self.folder.labels_N[rows])
        (batch,) = read_batches(part, height=height, width=width, channels=channels, batch_size=len(files))
        return _Batch(rows, self.query.encode(batch.images_BHWC))

    def send(self, payload: _Batch) -> Answer:
        rows = payload.rows
        try:
            prediction = self.client.decode(self.client.raw_infer(payload.request))
            answer = read_answer(prediction)
            label_B = required(prediction.label, "label")
            confidence_B = required(prediction.confidence, "confidence")
        except RemoteError as error:
            # An evaluation that misses rows would be a wrong figure: the first failure ends it.
            first, last = self.folder.files[rows.start], self.folder.files[rows.stop - 1]
            files = str(first) if first == last else f"{first} to {last.name}"
            raise CascadeError(f"{files}: {error}") from error
        self.predictions.label_N[rows] = label_B
        self.predictions.confidence_N[rows] = confidence_B
        self.predictions.exit_stage_N[rows] = answer.exit_stage_B
        self.predictions.flops_N[rows] = answer.flops_B
        self.predictions.certified_N[rows] = prediction.certified
        return answer


def write_predictions(path: Path, folder: ImageFolder, classes: Sequence[str], predictions: Predictions) -> None:
    """Write one line an image, in the order of the files, so that two runs can be compared in pairs.

    Columns: path (below the folder), label, prediction (class names), confidence, exit_stage, flops.

    Raises:
        ConfigError: the file can't be written.
    """
    columns = zip(
        folder.files,
        folder.labels_N.tolist(),
        predictions.label_N.tolist(),
        predictions.confidence_N.tolist(),
        predictions.exit_stage_N.tolist(),
        predictions.flops_N.tolist(),
        strict=True,
    )
    try:
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("path", "label", "prediction", "confidence", "exit_stage", "flops"))
            for source, label, prediction, confidence, stage, flops in columns:
                relative = source.relative_to(folder.path).as_posix()
                writer.writerow((relative, folder.classes[label], classes[prediction], confidence, stage, flops))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error

"""Runs the calibration images through a member, on the engine that it is meant for."""
# Shapes: N rows, B rows of a batch, K classes, HWC image.

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cascade_serve.core.arrays import FloatArray, ImageArray
from cascade_serve.core.combine import is_usable
from cascade_serve.zoo.addition import Begin
from model_zoo import image_folder, store
from model_zoo.card import EngineName, Precision, TaskCard
from model_zoo.errors import ExportError

if TYPE_CHECKING:
    from onnx import ModelProto


class MemberSession(Protocol):
    """A member, loaded into an engine."""

    def logits(self, images_BHWC: ImageArray) -> FloatArray:
        """Give logits float32 [B, K] for uint8 images [B, H, W, C]."""


OpenTorch = Callable[[TaskCard, Precision], MemberSession]
"""Loads a member's network into torch, on a CUDA device where there is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationRows:
    """What a member said about the calibration images.

    Attributes:
        data: logits, labels, ids.
        sha256: fingerprint of the images.
    """

    data: store.CalibrationData
    sha256: str


def check_capability(precision: Precision | None, engine: EngineName, member: str) -> None:
    """Refuse what an engine lacks on this processor, before a model is loaded.

    Raises:
        ConfigError: it lacks the precision.
    """
    if engine == "openvino" and precision is not None:
        from cascade_serve.engine.openvino import check_precision

        check_precision(precision, f"member {member!r}")


def open_session(graph: "ModelProto", precision: Precision, engine: EngineName) -> MemberSession:
    """Load a member's graph into an engine that runs graphs, on the CPU.

    Raises:
        ExportError: the engine can't load it.
        ConfigError: the engine lacks the precision on this machine.
    """
    from model_zoo.graph import GraphSession, serialize

    if engine == "openvino":
        from cascade_serve.engine.openvino import OpenVinoSession

        return OpenVinoSession(serialize(graph), precision=precision, threads=0)
    return GraphSession(graph)


def run_calibration(
    session: MemberSession, folder: image_folder.ImageFolder, task: TaskCard, batch_size: int, begin: Begin
) -> CalibrationRows:
    """Run all images of a folder through a member.

    Args:
        session: the member.
        folder: labelled images.
        task: their size and channels.
        batch_size: images of one run.
        begin: hears of progress.

    Raises:
        ImageError: a file can't be read.
        ExportError: a run fails, or no image has finite logits.
    """
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
    return CalibrationRows(data=data, sha256=image_folder.fingerprint(folder, digests))

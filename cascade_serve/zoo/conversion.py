"""Brings an exported graph into the precision and onto the engine that were asked for, and compares it with itself."""
# Shapes: B rows of a batch, N images, K classes, HWC image.

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cascade_serve.core.arrays import FloatArray, ImageArray, IntArray
from cascade_serve.core.combine import is_usable
from cascade_serve.errors import ConfigError
from cascade_serve.zoo.addition import Addition, Begin, Quantisation, check_precision
from cascade_serve.zoo.calibration import MemberSession, OpenTorch, open_session
from model_zoo import image_folder
from model_zoo.card import ConversionCard, Precision, QuantisationCard, TaskCard
from model_zoo.errors import ExportError

if TYPE_CHECKING:
    from model_zoo.graph import ExportedModel

COMPARED_IMAGES = 256
"""How many calibration images a converted member and its source are compared on, at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """A member in its precision, on its engine.

    Attributes:
        exported: its graph; the cost is its source's.
        session: the member, loaded.
        card: how far it lies from its source; None where it is that itself.
        quantisation_ids_N: ids of the images that ranges were taken from, int64 [N]; empty without any.
    """

    exported: "ExportedModel"
    session: MemberSession
    card: ConversionCard | None
    quantisation_ids_N: IntArray


@dataclass(frozen=True, kw_only=True, slots=True)
class _Changed:
    exported: "ExportedModel"
    tool: str | None
    quantisation: QuantisationCard | None = None
    ids_N: IntArray


def convert(
    addition: Addition,
    exported: "ExportedModel",
    folder: image_folder.ImageFolder,
    task: TaskCard,
    begin: Begin,
    *,
    open_torch: OpenTorch | None = None,
) -> Converted:
    """Convert an exported graph. For torch, which casts weights itself, the graph stays as it is.

    Args:
        addition: says precision, engine and where ranges come from.
        exported: as it was exported or brought.
        folder: calibration images; some are compared on.
        task: their size and channels.
        begin: hears of progress.
        open_torch: loads the same into torch; None where it is no torch network, and so for another engine.

    Raises:
        ConfigError: the graph's own precision does not go with what was asked for, or with the engine.
        ExportError: the graph can't be converted, or gives no finite logits any more.
        ImageError: an image can't be read.
    """
    precision = _choose(addition, exported.precision)
    changed = _change(addition, exported, precision, task, begin)
    if addition.engine == "torch":
        assert open_torch is not None, "an addition on torch has a torch model"
        session = open_torch(task, precision)
    else:
        session = open_session(changed.exported.graph, precision, addition.engine)
    card = None
    if addition.engine != "onnxruntime" or precision != exported.precision:
        card = _compare(changed, open_session(exported.graph, exported.precision, "onnxruntime"), session, folder, task)
    return Converted(exported=changed.exported, session=session, card=card, quantisation_ids_N=changed.ids_N)


def _choose(addition: Addition, own: Precision) -> Precision:
    asked = addition.precision
    if own != "fp32" and (asked not in (None, own) or addition.quantisation is not None):
        raise ConfigError(f"precision: got {asked}; the graph is in {own} already: leave the option out")
    precision = asked or own
    check_precision(precision, addition.engine)
    return precision


def _change(
    addition: Addition, exported: "ExportedModel", precision: Precision, task: TaskCard, begin: Begin
) -> _Changed:
    tool, quantisation, ids_N = None, None, np.empty(0, dtype=np.int64)
    graph = exported.graph
    if precision == "fp16" and exported.precision != "fp16" and addition.engine != "torch":
        from model_zoo import half

        graph, tool = half.to_half(graph), half.TOOL
    if precision == "int8" and addition.quantisation is not None:
        from model_zoo import quantise

        images = _draw(addition.quantisation, task, begin)
        begin("quantising", None)
        graph, tool = quantise.to_int8(graph, _batches(images.images_NHWC, addition.batch_size)), quantise.TOOL
        ids_N = images.sample_ids_N
        quantisation = QuantisationCard(n=len(ids_N), seed=addition.quantisation.seed, data_sha256=images.sha256)
    changed = replace(exported, graph=graph, precision=precision)
    return _Changed(exported=changed, tool=tool, quantisation=quantisation, ids_N=ids_N)


def _draw(quantisation: Quantisation, task: TaskCard, begin: Begin) -> image_folder.FolderImages:
    folder = image_folder.draw_images(
        image_folder.scan_image_folder(quantisation.data), quantisation.max_images, seed=quantisation.seed
    )
    advance = begin("reading the quantisation images", len(folder))
    return image_folder.read_images(
        folder, height=task.height, width=task.width, channels=task.channels, progress=advance
    )


def _batches(images_NHWC: ImageArray, batch_size: int) -> Iterator[ImageArray]:
    for start in range(0, len(images_NHWC), batch_size):
        yield images_NHWC[start : start + batch_size]


def _compare(
    changed: _Changed,
    source: MemberSession,
    session: MemberSession,
    folder: image_folder.ImageFolder,
    task: TaskCard,
) -> ConversionCard:
    drawn = image_folder.draw_images(folder, COMPARED_IMAGES, seed=0)
    images = image_folder.read_images(drawn, height=task.height, width=task.width, channels=task.channels)
    source_NK, logits_NK = (_run(runner, images.images_NHWC) for runner in (source, session))
    source_usable_N, usable_N = is_usable(source_NK), is_usable(logits_NK)
    # Rows that are broken in the source are broken in both.
    both_N = source_usable_N & usable_N
    if not both_N.any():
        raise ExportError(f"{changed.exported.precision}: got no finite logits on any of {len(drawn)} images")
    is_same_N = np.where(both_N, source_NK.argmax(axis=1) == logits_NK.argmax(axis=1), source_usable_N == usable_N)
    return ConversionCard(
        tool=changed.tool,
        n=len(drawn),
        same_label=float(is_same_N.mean()),
        max_logit_difference=float(np.abs(source_NK[both_N] - logits_NK[both_N]).max()),
        quantisation=changed.quantisation,
    )


def _run(session: MemberSession, images_NHWC: ImageArray) -> FloatArray:
    return np.concatenate([session.logits(batch_BHWC) for batch_BHWC in _batches(images_NHWC, 32)])

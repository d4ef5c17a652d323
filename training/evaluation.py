"""How good a trained model is on images that it has not seen."""
# Shapes: B rows, C channels, H height, W width, K classes.

from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional

from cascade_serve.core.arrays import FloatArray
from cascade_serve.core.interval import wilson_interval
from training.data.images import LabelledImages
from training.errors import DataError
from training.inputs import Normalisation, Normaliser, to_device


class Tta(StrEnum):
    """Test-time augmentation: views of an image whose logits are averaged. The exported graph does not do this."""

    NONE = "none"
    """The image alone."""
    FLIP = "flip"
    """The image and its mirror image, as in Page's DAWNBench entry."""
    TRANSLATE = "translate"
    """Six views, as in airbench (Jordan, arXiv 2404.00498): half the weight is that of the image and its mirror image,
    the other half theirs moved by one pixel down and right, and up and left, edges reflected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Accuracy of one model on one split.

    Attributes:
        n: images.
        top1: share of correct ones.
        interval: its two-sided 95 % Wilson interval.
        data_sha256: fingerprint of the images.
    """

    n: int
    top1: float
    interval: tuple[float, float]
    data_sha256: str


def evaluate(
    model: nn.Module,
    data: LabelledImages,
    normalisation: Normalisation,
    *,
    batch_size: int = 256,
    device: str = "cpu",
    tta: Tta = Tta.NONE,
) -> Evaluation:
    """Measure a model's accuracy; its mode (training or not) is left as it was.

    Args:
        model: takes normalised float32 [B, C, H, W], gives logits [B, K].
        data: images, at least one.
        normalisation: of the pixels, as trained.
        batch_size: images at a time.
        device: where the model lies.
        tta: views that are averaged.

    Returns:
        accuracy and its interval.

    Raises:
        DataError, ValueError: as for :func:`predict`.
    """
    logits_BK = predict(model, data, normalisation, batch_size=batch_size, device=device, tta=tta)
    num_correct = int((logits_BK.argmax(axis=1) == data.labels_B).sum())
    return Evaluation(
        n=len(data),
        top1=num_correct / len(data),
        interval=wilson_interval(num_correct, len(data)),
        data_sha256=data.sha256,
    )


def predict(
    model: nn.Module,
    data: LabelledImages,
    normalisation: Normalisation,
    *,
    batch_size: int = 256,
    device: str = "cpu",
    tta: Tta = Tta.NONE,
) -> FloatArray:
    """Give a model's logits for all images, in float32 whatever it was trained in; not in TF32 either.

    Args:
        model: takes normalised float32 [B, C, H, W], gives logits [B, K]; it is moved to ``device``, and its mode left
            as it was.
        data: images, at least one.
        normalisation: of the pixels, as trained.
        batch_size: images at a time.
        device: where.
        tta: views that are averaged.

    Returns:
        float32 [B, K].

    Raises:
        DataError: there is no image, or they have other channels than the normalisation.
        ValueError: the batch size is below 1.
    """
    check_images(data, normalisation)
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}; must be at least 1")
    was_training = model.training
    model.to(device).eval()
    normalise = Normaliser(normalisation, device)
    with torch.inference_mode(), torch.autocast(torch.device(device).type, enabled=False), _without_tf32():
        parts = [
            view_logits(model, normalise(to_device(data.images_BHWC[start : start + batch_size], device)), tta)
            for start in range(0, len(data), batch_size)
        ]
    model.train(was_training)
    gathered_BK: FloatArray = torch.cat(parts).float().cpu().numpy()
    return gathered_BK


def _without_tf32() -> AbstractContextManager[None]:
    """Keep a GPU's convolutions from rounding to TF32, which torch lets them: members are served without it."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(
        enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
    )


def check_images(data: LabelledImages, normalisation: Normalisation) -> None:
    """Check that there are images, and that they have the normalisation's channels.

    Raises:
        DataError: they don't.
    """
    channels = len(normalisation.mean)
    if len(data) == 0 or data.images_BHWC.shape[3] != channels:
        raise DataError(f"images: got {list(data.images_BHWC.shape)}; must be at least one, with {channels} channels")


def view_logits(model: nn.Module, inputs_BCHW: Tensor, tta: Tta) -> Tensor:
    """Average a model's logits over views of each image.

    Args:
        model: in evaluation mode, on the images' device.
        inputs_BCHW: float, normalised.
        tta: which views; ``translate`` needs at least 2 pixels a side.

    Returns:
        logits [B, K].
    """
    match tta:
        case Tta.NONE:
            logits_BK: Tensor = model(inputs_BCHW)
            return logits_BK
        case Tta.FLIP:
            return (view_logits(model, inputs_BCHW, Tta.NONE) + view_logits(model, inputs_BCHW.flip(3), Tta.NONE)) / 2
        case Tta.TRANSLATE:
            padded_BCHW = functional.pad(inputs_BCHW, (1, 1, 1, 1), mode="reflect")
            height, width = inputs_BCHW.shape[2:]
            # Without a copy, some networks would see other strides than of the image itself.
            down_BCHW = padded_BCHW[:, :, :height, :width].contiguous()
            up_BCHW = padded_BCHW[:, :, 2:, 2:].contiguous()
            moved_BK = view_logits(model, down_BCHW, Tta.FLIP) + view_logits(model, up_BCHW, Tta.FLIP)
            return view_logits(model, inputs_BCHW, Tta.FLIP) / 2 + moved_BK / 4
        case _:
            assert_never(tta)

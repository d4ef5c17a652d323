"""How good a trained model is on images that it has not seen."""
# Shapes: B rows, K classes.

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from cascade_serve.core.arrays import FloatArray
from cascade_serve.core.interval import wilson_interval
from training.data.images import LabelledImages
from training.inputs import Normalisation, normalise, to_device


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
    model: nn.Module, data: LabelledImages, normalisation: Normalisation, *, batch_size: int = 256, device: str = "cpu"
) -> Evaluation:
    """Measure a model's accuracy; its mode (training or not) is left as it was.

    Args:
        model: takes normalised float32 [B, C, H, W], gives logits [B, K].
        data: images, at least one.
        normalisation: of the pixels, as trained.
        batch_size: images at a time.
        device: where the model lies.

    Returns:
        accuracy and its interval.
    """
    logits_BK = predict(model, data, normalisation, batch_size=batch_size, device=device)
    num_correct = int((logits_BK.argmax(axis=1) == data.labels_B).sum())
    return Evaluation(
        n=len(data),
        top1=num_correct / len(data),
        interval=wilson_interval(num_correct, len(data)),
        data_sha256=data.sha256,
    )


def predict(
    model: nn.Module, data: LabelledImages, normalisation: Normalisation, *, batch_size: int = 256, device: str = "cpu"
) -> FloatArray:
    """Give a model's float32 logits [B, K] for all images; its mode is left as it was."""
    was_training = model.training
    model.to(device).eval()
    images_BCHW = to_device(data.images_BHWC, device)
    with torch.inference_mode():
        logits = [model(normalise(part_BCHW, normalisation)).cpu() for part_BCHW in images_BCHW.split(batch_size)]
    model.train(was_training)
    logits_BK: FloatArray = torch.cat(logits).numpy().astype(np.float32)
    return logits_BK

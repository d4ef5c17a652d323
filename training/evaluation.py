"""How good a trained model is on images that it has not seen."""
# Shapes: B rows, K classes.

from dataclasses import dataclass

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
    model: nn.Module,
    data: LabelledImages,
    normalisation: Normalisation,
    *,
    batch_size: int = 256,
    device: str = "cpu",
    flip_tta: bool = False,
) -> Evaluation:
    """Measure a model's accuracy; its mode (training or not) is left as it was.

    Args:
        model: takes normalised float32 [B, C, H, W], gives logits [B, K].
        data: images, at least one.
        normalisation: of the pixels, as trained.
        batch_size: images at a time.
        device: where the model lies.
        flip_tta: as for :func:`predict`.

    Returns:
        accuracy and its interval.
    """
    logits_BK = predict(model, data, normalisation, batch_size=batch_size, device=device, flip_tta=flip_tta)
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
    flip_tta: bool = False,
) -> FloatArray:
    """Give a model's logits for all images, in float32 whatever it was trained in.

    Args:
        model: takes normalised float32 [B, C, H, W], gives logits [B, K]; it is moved to ``device``, and its mode left
            as it was.
        data: images, at least one.
        normalisation: of the pixels, as trained.
        batch_size: images at a time.
        device: where.
        flip_tta: an image's logits are the mean of its own and its mirror image's (test-time augmentation, as in Page's
            DAWNBench entry). The exported graph does not do this.

    Returns:
        float32 [B, K].
    """
    was_training = model.training
    model.to(device).eval()
    parts = []
    for start in range(0, len(data), batch_size):
        inputs_BCHW = normalise(to_device(data.images_BHWC[start : start + batch_size], device), normalisation)
        with torch.inference_mode(), torch.autocast(torch.device(device).type, enabled=False):
            logits_BK = model(inputs_BCHW)
            if flip_tta:
                logits_BK = (logits_BK + model(inputs_BCHW.flip(3))) / 2
        parts.append(logits_BK)
    model.train(was_training)
    gathered_BK: FloatArray = torch.cat(parts).float().cpu().numpy()
    return gathered_BK

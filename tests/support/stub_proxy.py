"""A proxy without training: an image's pixels are its logits, so that a test says what the model will find hard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike
from pydantic import JsonValue
from torch import nn

from training.data.images import LabelledImages
from training.inputs import Normalisation
from training.selection.methods import ScoreMeter
from training.selection.scoring import TrainedProxy
from training.selection.timing import PhaseSeconds

NORMALISATION = Normalisation(mean=(0.0,), std=(1.0,))


def pixel_images(pixels_NK: ArrayLike, labels_N: ArrayLike | None = None, first_id: int = 100) -> LabelledImages:
    """Give images of one line of K pixels, 0..255, with ids from ``first_id`` on."""
    images_NK = np.asarray(pixels_NK, dtype=np.uint8)
    rows, classes = images_NK.shape
    labels = np.zeros(rows, dtype=np.int64) if labels_N is None else np.asarray(labels_N, dtype=np.int64)
    return LabelledImages(
        images_BHWC=images_NK[:, None, :, None],
        labels_B=labels,
        ids_B=np.arange(first_id, first_id + rows, dtype=np.int64),
        classes=tuple(str(label) for label in range(classes)),
    )


def pixel_model(classes: int, scale: float = 10.0) -> nn.Module:
    """Give a model whose logits are ``scale`` times the pixels; the input of its linear layer is the pixels in 0..1."""
    linear = nn.Linear(classes, classes, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(classes) * scale)
    return nn.Sequential(nn.Flatten(), linear)


@dataclass
class StubTrainer:
    """Notes what it is asked to train on, and tells observers of made-up batches.

    Attributes:
        corrects: one list of right-or-wrong an epoch, in the order of the data.
        name: in its description.
        seconds: that each training took, earlier attempts counted in.
        calls: ids and seed of each training.
    """

    corrects: Sequence[Sequence[bool]] = ()
    name: str = "stub"
    seconds: PhaseSeconds = field(default_factory=PhaseSeconds)
    calls: list[tuple[list[int], int]] = field(default_factory=list)

    @property
    def description(self) -> Mapping[str, JsonValue]:
        return {"architecture": self.name}

    def train(self, data: LabelledImages, *, seed: int, observers: Sequence[ScoreMeter] = ()) -> TrainedProxy:
        self.calls.append((data.ids_B.tolist(), seed))
        for correct in self.corrects:
            for observer in observers:
                observer.observe(torch.from_numpy(data.ids_B), torch.zeros(len(data)), torch.tensor(correct))
        return TrainedProxy(
            model=pixel_model(len(data.classes)),
            normalisation=NORMALISATION,
            evaluations=len(data),
            seconds=self.seconds,
        )

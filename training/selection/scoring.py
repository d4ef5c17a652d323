"""From a trained proxy to what a method needs to know of the pool. Never augmented."""
# Shapes: N images of the pool.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, assert_never

import numpy as np
from pydantic import JsonValue
from torch import nn

from cascade_serve.core.arrays import FloatArray
from training.data.images import LabelledImages
from training.errors import SelectionError
from training.inputs import Normalisation
from training.selection.choice import Evidence
from training.selection.features import extract_features, predict_probabilities
from training.selection.methods import (
    Ccs,
    CoreSetMethod,
    KCenter,
    LabelFreeScore,
    LabelUsingScore,
    RandomChoice,
    ScoreMeter,
    find_score,
)
from training.selection.timing import PhaseSeconds


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainedProxy:
    """A proxy after its training.

    Attributes:
        model: with the weights of the last epoch, or their average: no checkpoint is chosen on training accuracy.
        normalisation: of its input.
        evaluations: single images that it was trained on.
        device: where it lies.
        seconds: of its training, over all the processes that it was resumed in; 0 where the trainer keeps no count.
    """

    model: nn.Module
    normalisation: Normalisation
    evaluations: int
    device: str = "cpu"
    seconds: PhaseSeconds = field(default_factory=PhaseSeconds)


class ProxyTrainer(Protocol):
    """Trains proxies from scratch; the target, as its own proxy, is one as well."""

    @property
    def description(self) -> Mapping[str, JsonValue]:
        """What is trained and how, as it is recorded."""
        ...

    def train(self, data: LabelledImages, *, seed: int, observers: Sequence[ScoreMeter] = ()) -> TrainedProxy:
        """Train a new proxy.

        Args:
            data: labelled images.
            seed: of its weights and its training.
            observers: hear of each batch that is trained on.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringConfig:
    """How a pool is looked at.

    Attributes:
        batch_size: images at a time.
        layer: name of the classifier layer, whose input is k-center's features; None takes the last ``nn.Linear``.
    """

    batch_size: int = 512
    layer: str | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size: got {self.batch_size}; must be at least 1")


def layer_of(method: CoreSetMethod, config: ScoringConfig) -> str | None:
    """Give the layer that a method's choice depends on, if it does, as a subset's file tells it."""
    return config.layer if isinstance(method, KCenter) else None


def score_of(method: CoreSetMethod) -> LabelFreeScore | LabelUsingScore | None:
    """Give the score that a method goes by; k-center and random go by none.

    Raises:
        SelectionError: the base of a ``ccs`` is not known.
    """
    match method:
        case LabelFreeScore() | LabelUsingScore():
            return method
        case Ccs():
            return find_score(method.base)
        case KCenter() | RandomChoice():
            return None
        case _:
            assert_never(method)


def rate(score: LabelFreeScore, proxy: TrainedProxy, data: LabelledImages, config: ScoringConfig) -> FloatArray:
    """Score images by a proxy, float32 [N], higher is kept first; their labels are not looked at."""
    return score.rate(
        predict_probabilities(proxy.model, data, proxy.normalisation, batch_size=config.batch_size, device=proxy.device)
    )


def gather(
    method: CoreSetMethod,
    proxy: TrainedProxy | None,
    data: LabelledImages,
    config: ScoringConfig,
    *,
    meter: ScoreMeter | None = None,
) -> Evidence:
    """Look at a pool the way a method asks for.

    Args:
        method: by what the pool will be chosen from.
        proxy: trained; needed save by ``random``.
        data: the pool, N images.
        config: how.
        meter: what watched the proxy's training on the pool; needed by label-using scores alone.

    Returns:
        scores or features of all N.

    Raises:
        SelectionError: the model has no layer to take features of, the meter did not watch this training, or a score
            is not one number an image.
    """
    if isinstance(method, RandomChoice):
        return Evidence(num_images=len(data))
    assert proxy is not None
    if isinstance(method, KCenter):
        features_ND = extract_features(
            proxy.model, data, proxy.normalisation, layer=config.layer, batch_size=config.batch_size,
            device=proxy.device,
        )  # fmt: skip
        return Evidence(num_images=len(data), features_ND=features_ND)
    score = score_of(method)
    if isinstance(score, LabelFreeScore):
        scores_N = rate(score, proxy, data, config)
    else:
        assert score is not None
        assert meter is not None
        scores_N = meter.scores()
    return Evidence(num_images=len(data), scores_N=_checked(scores_N, score.name, len(data)))


def _checked(scores_N: FloatArray, name: str, num_images: int) -> FloatArray:
    """Take a score's word, which may be a user's own, for float32 [N]; ranking turns signs, which not all types bear.

    Raises:
        SelectionError: it is not one number an image.
    """
    if np.shape(scores_N) != (num_images,):
        raise SelectionError(f"{name}: got scores {list(np.shape(scores_N))}; must be [{num_images}], one an image")
    checked_N: FloatArray = np.asarray(scores_N, dtype=np.float32)
    return checked_N

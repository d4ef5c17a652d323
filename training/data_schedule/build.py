"""From a data schedule's configuration to the schedule of one run."""
# Shapes: N training images.

from typing import assert_never

import numpy as np
import torch
from torch import Tensor

from cascade_serve.core.arrays import FloatArray
from training.data_schedule.config import (
    AllData,
    CutMode,
    DataCut,
    DataIncrement,
    DataScheduleConfig,
    DataStep,
    InfoBatch,
)
from training.data_schedule.infobatch import InfoBatchSchedule
from training.data_schedule.protocol import DataSchedule
from training.data_schedule.spans import Spans, SpanSchedule, all_spans, cut_spans, increment_spans, step_spans
from training.errors import DataError


def make_data_schedule(
    config: DataScheduleConfig, num_images: int, epochs: int, scores_N: FloatArray | None = None
) -> DataSchedule:
    """Lay out which images each epoch trains on.

    Args:
        config: which schedule.
        num_images: N, at least 1.
        epochs: planned, at least 1.
        scores_N: [N], needed just when the schedule names a score: the highest are kept first. Infinite is fine, NaN
            is not.

    Returns:
        the schedule, at its first epoch.

    Raises:
        DataError: there are no scores where a score is named, or the other way round; they are not N numbers; or there
            are more cuts than images or, where each needs an epoch of its own, epochs.
    """
    if num_images < 1 or epochs < 1:
        raise DataError(f"data schedule: got {num_images} images and {epochs} epochs; must be at least 1 of each")
    scores = _checked_scores(config, num_images, scores_N)
    match config:
        case InfoBatch():
            return InfoBatchSchedule(config, num_images=num_images, epochs=epochs)
        case AllData():
            return _spanned(all_spans(num_images, epochs), num_images)
        case DataStep():
            spans = step_spans(num_images, epochs, fraction=config.fraction, share=config.share)
        case DataIncrement():
            spans = increment_spans(num_images, epochs, fraction=config.fraction)
        case DataCut():
            _check_cuts(config, num_images, epochs)
            spans = cut_spans(num_images, epochs, config)
        case _:
            assert_never(config)
    return _spanned(spans, num_images, redraw_every=_redraw_every(config), scores_N=scores)


def _spanned(
    spans: tuple[Spans, ...], num_images: int, *, redraw_every: int | None = 1, scores_N: Tensor | None = None
) -> SpanSchedule:
    return SpanSchedule(spans, num_images=num_images, redraw_every=redraw_every, scores_N=scores_N)


def _redraw_every(config: DataStep | DataIncrement | DataCut) -> int | None:
    """Tell after how many epochs what is left out is drawn anew."""
    if config.fixed:
        return None
    if isinstance(config, DataCut) and config.mode is not CutMode.CUMULATIVE:
        return config.cuts
    return 1


def _checked_scores(config: DataScheduleConfig, num_images: int, scores_N: FloatArray | None) -> Tensor | None:
    score = None if isinstance(config, AllData | InfoBatch) else config.score
    if (score is None) != (scores_N is None):
        got = "none" if scores_N is None else str(len(scores_N))
        limit = "absent, since the data schedule names no score" if score is None else f"one an image, of {score!r}"
        raise DataError(f"scores: got {got}; must be {limit}")
    if scores_N is None:
        return None
    if scores_N.shape != (num_images,) or np.isnan(scores_N).any():
        raise DataError(
            f"scores: got {list(scores_N.shape)} with {int(np.isnan(scores_N).sum())} NaN; must be [{num_images}], none"
        )
    return torch.from_numpy(np.array(scores_N, dtype=np.float32))


def _check_cuts(config: DataCut, num_images: int, epochs: int) -> None:
    # Leaving one out shows every image even in few epochs; the other modes need an epoch for each cut.
    limits = (
        {"images": num_images} if config.mode is CutMode.LEAVE_ONE_OUT else {"images": num_images, "epochs": epochs}
    )
    for name, limit in limits.items():
        if config.cuts > limit:
            raise DataError(f"cuts: got {config.cuts}; must be at most {limit}, the number of {name}")

"""Core-sets: a proxy is trained on all data once, and says which part of it the target needs.

Source: Coleman et al., "Selection via Proxy" (ICLR 2020, arXiv 1906.11829), section 2: train the proxy, score, rank,
keep a fraction, train the target on it, for as many epochs (and so fewer steps) as on everything.
"""
# Shapes: N images.

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cascade_serve.core.arrays import FloatArray
from training.data.images import LabelledImages
from training.errors import SelectionError
from training.seeds import check_seed
from training.selection.ccs import check_size
from training.selection.choice import choose, choose_by_class
from training.selection.methods import (
    Ccs,
    CoreSetMethod,
    KCenter,
    LabelUsingScore,
    RandomChoice,
    ScoreMeter,
    find_core_set_method,
)
from training.selection.ranking import subset_size
from training.selection.scoring import ProxyTrainer, ScoringConfig, TrainedProxy, gather, layer_of, score_of
from training.selection.subset import Subset
from training.selection.timing import PhaseSeconds, SelectionSeconds, Stopwatch


@dataclass(frozen=True, kw_only=True, slots=True)
class CoreSetConfig:
    """What part of the data is kept.

    Attributes:
        score: name of the method, one of ``methods.method_names()``.
        fraction: of the images, above 0 and at most 1.
        class_balance: keep the same fraction of each class, rather than of the whole.
        k_center, ccs: settings of these two methods, used where the score is theirs.
        scoring: how the data are looked at.
        seed: of the proxy, and of all that is drawn.
    """

    score: str = "forgetting_events"
    fraction: float = 0.5
    class_balance: bool = False
    k_center: KCenter = field(default_factory=KCenter)
    ccs: Ccs = field(default_factory=Ccs)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction: got {self.fraction}; must be above 0 and at most 1")
        check_seed(self.seed)

    @property
    def method(self) -> CoreSetMethod:
        """What the score's name stands for.

        Raises:
            SelectionError: nothing has that name.
        """
        return find_core_set_method(self.score, k_center=self.k_center, ccs=self.ccs)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CoreSet:
    """What came of a selection.

    Attributes:
        subset: the images kept.
        scores_N: float32 [N], the score of every image, higher is kept first; None where the method goes by none.
        proxy: what scored; None where no proxy was trained.
    """

    subset: Subset
    scores_N: FloatArray | None
    proxy: TrainedProxy | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _ProxyRun:
    proxy: TrainedProxy | None
    meters: Mapping[str, ScoreMeter]
    seconds: PhaseSeconds


def select_core_set(config: CoreSetConfig, data: LabelledImages, trainer: ProxyTrainer) -> CoreSet:
    """Train a proxy on all data and keep what it points out.

    Args:
        config: what to keep.
        data: labelled images.
        trainer: of the proxy; ``random`` does not call it.

    Returns:
        the subset, with the seconds of each phase.

    Raises:
        SelectionError: the score is not known, ``ccs`` leaves fewer images than asked for, or a score is NaN.
    """
    return select_core_sets((config,), data, trainer)[0]


def select_core_sets(
    configs: Sequence[CoreSetConfig], data: LabelledImages, trainer: ProxyTrainer
) -> tuple[CoreSet, ...]:
    """Keep several subsets by the word of one proxy, such as several fractions, or every score.

    Args:
        configs: what to keep, all with the same seed.
        data: labelled images.
        trainer: of the proxy.

    Returns:
        one core-set a config; the seconds of each are those it would have taken alone.

    Raises:
        SelectionError: as for :func:`select_core_set`, or the seeds differ.
    """
    seeds = sorted({config.seed for config in configs})
    if len(seeds) != 1:
        raise SelectionError(f"seed: got {seeds}; must be one seed, since one proxy serves all")
    for config in configs:
        _check_size(config, len(data))
    run = _train([config.method for config in configs], data, trainer, seeds[0])
    return tuple(_select(config, data, trainer, run) for config in configs)


def ranking_scores(
    name: str, data: LabelledImages, trainer: ProxyTrainer, *, class_balance: bool = False, seed: int = 0
) -> FloatArray:
    """Rank a whole data set as :func:`rank_all` does.

    Returns:
        float32 [N], higher is kept first: N for the most wanted image down to 1, no two alike.

    Raises:
        SelectionError: the method is not known or does not rank all.
    """
    return rank_all(name, data, trainer, class_balance=class_balance, seed=seed).ranking_scores(data)


def rank_all(
    name: str, data: LabelledImages, trainer: ProxyTrainer, *, class_balance: bool = False, seed: int = 0
) -> Subset:
    """Rank a whole data set by a method, to order a data schedule in place of chance.

    Args:
        name: of the method; ``ccs`` keeps images out and so ranks no whole data set: use its subset's
            :meth:`Subset.ranking_scores`. ``k_center`` takes time quadratic in N.
        data: labelled images, N.
        trainer: of the proxy.
        class_balance: interleave the classes, so that any first part has each in its proportion.
        seed: of the proxy, and of ties.

    Returns:
        a subset of all, most wanted first, with what the ranking cost.

    Raises:
        SelectionError: the method is not known or does not rank all.
    """
    config = CoreSetConfig(score=name, fraction=1.0, class_balance=class_balance, seed=seed)
    return select_core_set(config, data, trainer).subset


def same_steps_epochs(epochs: int, *, num_images: int, subset_size: int, batch_size: int) -> int:
    """Give the epochs that a subset needs for the optimiser steps of training on everything.

    Args:
        epochs: on all images.
        num_images: all.
        subset_size: kept ones, at least 1.
        batch_size: an epoch of n images is ceil(n / batch_size) steps.

    Returns:
        the nearest whole number of epochs, at least 1: the steps agree to half an epoch on the subset.
    """
    steps = epochs * math.ceil(num_images / batch_size)
    return max(1, int(steps / math.ceil(subset_size / batch_size) + 0.5))


def _check_size(config: CoreSetConfig, num_images: int) -> None:
    """Refuse before a proxy is trained what its scores can't change; by class, the classes' sizes decide."""
    method = config.method
    if isinstance(method, Ccs) and not config.class_balance:
        check_size(subset_size(num_images, config.fraction), num_images, method.hard_share)


def _train(methods: Sequence[CoreSetMethod], data: LabelledImages, trainer: ProxyTrainer, seed: int) -> _ProxyRun:
    scores = [score_of(method) for method in methods]
    meters = {score.name: score.make_meter(data.ids_B) for score in scores if isinstance(score, LabelUsingScore)}
    stopwatch = Stopwatch()
    if all(isinstance(method, RandomChoice) for method in methods):
        return _ProxyRun(proxy=None, meters={}, seconds=PhaseSeconds())
    proxy = trainer.train(data, seed=seed, observers=tuple(meters.values()))
    return _ProxyRun(proxy=proxy, meters=meters, seconds=stopwatch.lap().at_least(proxy.seconds))


def _select(config: CoreSetConfig, data: LabelledImages, trainer: ProxyTrainer, run: _ProxyRun) -> CoreSet:
    method = config.method
    # Another config of the same call may have needed a proxy; this one must not be charged for it.
    proxy = None if isinstance(method, RandomChoice) else run.proxy
    score = score_of(method)
    stopwatch = Stopwatch()
    evidence = gather(method, proxy, data, config.scoring, meter=run.meters.get(score.name) if score else None)
    scoring = stopwatch.lap()
    size, rng = subset_size(len(data), config.fraction), np.random.default_rng(config.seed)
    device = "cpu" if proxy is None else proxy.device
    if config.class_balance:
        rows = choose_by_class(method, evidence, data.labels_B, size, rng, device=device)
    else:
        rows = choose(method, evidence, size, rng, device=device)
    ranking = stopwatch.lap()
    subset = Subset(
        ids=tuple(data.ids_B[rows].tolist()),
        score=config.score,
        fraction=config.fraction,
        seed=config.seed,
        data_sha256=data.sha256,
        proxy=None if proxy is None else trainer.description,
        proxy_evaluations=0 if proxy is None else proxy.evaluations,
        class_balance=config.class_balance,
        layer=layer_of(method, config.scoring),
        seconds=SelectionSeconds(
            training=PhaseSeconds() if proxy is None else run.seconds, scoring=scoring, ranking=ranking
        ),
    )
    return CoreSet(subset=subset, scores_N=evidence.scores_N, proxy=proxy)

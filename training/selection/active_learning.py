"""Active learning by a proxy: label a little, train, and let the proxy say what to label next.

Source: Coleman et al., "Selection via Proxy" (ICLR 2020, arXiv 1906.11829), section 2: 2 % of the images are labelled
at random; then rounds up to 10, 20, ... 50 %, each by a proxy that is trained from scratch on what is labelled so far.
The target is trained on any round's labelled set. Labels of the pool are never looked at before they are bought.
"""
# Shapes: N images.

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from cascade_serve.core.arrays import IntArray
from training.data.images import LabelledImages
from training.errors import SelectionError
from training.selection.choice import Evidence, choose
from training.selection.methods import ActiveMethod, KCenter, RandomChoice, find_active_method, require_active
from training.selection.ranking import subset_size
from training.selection.scoring import ProxyTrainer, ScoringConfig, TrainedProxy, gather, layer_of
from training.selection.subset import Subset, read_subset, write_subset
from training.selection.timing import SelectionSeconds, Stopwatch

PAPER_SHARES = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Of CIFAR's 50,000: 1,000 at random, then 4,000 and four times 5,000."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ActiveLearningConfig:
    """How labels are bought.

    Attributes:
        score: name of a label-free method: least_confidence, entropy, margin, k_center, random, or a registered one.
        shares: share of the data set that is labelled at first, at random, and after each round; rising, above 0 and at
            most 1.
        scoring: how the pool is looked at.
        seed: of the proxies, and of all that is drawn.
    """

    score: str = "least_confidence"
    shares: tuple[float, ...] = PAPER_SHARES
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        rises = all(low < high for low, high in zip(self.shares, self.shares[1:], strict=False))
        if not self.shares or not rises or not 0 < self.shares[0] <= self.shares[-1] <= 1:
            raise ValueError(f"shares: got {self.shares}; must rise, from above 0 to at most 1")
        if self.seed < 0:
            raise ValueError(f"seed: got {self.seed}; must be at least 0")

    @property
    def method(self) -> ActiveMethod:
        """What the score's name stands for.

        Raises:
            SelectionError: nothing has that name, or it needs labels.
        """
        return find_active_method(self.score)


Progress = Callable[[Subset], None]
"""Called after each round with what is labelled now."""


def run_active_learning(
    config: ActiveLearningConfig,
    data: LabelledImages,
    trainer: ProxyTrainer,
    *,
    method: ActiveMethod | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Subset, ...]:
    """Buy labels round after round.

    Args:
        config: how.
        data: all images; a label counts as bought when its image is chosen.
        trainer: of the proxies, one a round.
        method: what to choose by; None takes the one of the config's name.
        folder: what is labelled after each round is kept there as ``round-00.json``, ``round-01.json``, ...: each a
            subset's file. Rounds found there are not run again.
        progress: called after each round, found ones too.

    Returns:
        what is labelled at first and after each round, each set in the order labelled, beginning with the one before;
        its seconds are the sum over the rounds up to it: the data-selection time of Coleman et al.

    Raises:
        SelectionError: the method uses labels or is not known; a round in the folder is of other data, another
            configuration or another proxy; two shares are the same number of images; or a score is NaN.
    """
    run = _Run(config, data, trainer, require_active(method or config.method))
    subsets: list[Subset] = []
    for number in range(len(config.shares)):
        path = None if folder is None else folder / f"round-{number:02d}.json"
        if path is not None and path.exists():
            subset = read_subset(path)
            run.check(subset, number, subsets[-1] if subsets else None, path)
        else:
            subset = run.extend(subsets[-1], number) if subsets else run.start()
            if path is not None:
                write_subset(subset, path)
        subsets.append(subset)
        if progress is not None:
            progress(subset)
    return tuple(subsets)


class _Run:
    """One run's fixed parts, and what a round does with them."""

    def __init__(
        self, config: ActiveLearningConfig, data: LabelledImages, trainer: ProxyTrainer, method: ActiveMethod
    ) -> None:
        self._config, self._data, self._trainer, self._method = config, data, trainer, method
        self._sizes = [subset_size(len(data), share) for share in config.shares]
        if len(set(self._sizes)) != len(self._sizes):
            raise SelectionError(
                f"shares: got {config.shares}, of {len(data)} images {self._sizes}; must differ by at least one image"
            )

    def start(self) -> Subset:
        """Label the first images, at random."""
        rows = self._rng(0).permutation(len(self._data))[: self._sizes[0]]
        return self._subset(rows, 0, 0, SelectionSeconds())

    def extend(self, labelled: Subset, number: int) -> Subset:
        """Train a proxy on what is labelled, and label what it is least sure of."""
        labelled_rows = labelled.rows_in(self._data)
        pool_rows = np.setdiff1d(np.arange(len(self._data)), labelled_rows)
        stopwatch = Stopwatch()
        proxy = self._train(labelled_rows, number)
        training = stopwatch.lap() if proxy is None else stopwatch.lap().at_least(proxy.seconds)
        evidence = self._look(proxy, labelled_rows, pool_rows)
        scoring = stopwatch.lap()
        device = "cpu" if proxy is None else proxy.device
        rows = choose(self._method, evidence, self._sizes[number] - len(labelled), self._rng(number), device=device)
        ranking = stopwatch.lap()
        seconds = labelled.seconds + SelectionSeconds(training=training, scoring=scoring, ranking=ranking)
        evaluations = labelled.proxy_evaluations + (0 if proxy is None else proxy.evaluations)
        return self._subset(np.concatenate([labelled_rows, pool_rows[rows]]), number, evaluations, seconds)

    def check(self, subset: Subset, number: int, before: Subset | None, path: Path) -> None:
        """Refuse a round of another run."""
        expected = {
            "score": self._method.name,
            "fraction": self._config.shares[number],
            "seed": self._config.seed,
            "data_sha256": self._data.sha256,
            "proxy": self._description,
            "layer": layer_of(self._method, self._config.scoring),
            "size": self._sizes[number],
            "ids": () if before is None else before.ids,
        }
        # A set begins with the one before.
        found_ids = subset.ids[: 0 if before is None else len(before)]
        for name, value in expected.items():
            found = {"size": len(subset), "ids": found_ids}.get(name, getattr(subset, name, None))
            if found != value:
                raise SelectionError(
                    f"{path}: {name}: got {_shorten(found)}; must be {_shorten(value)}, as this run has it; "
                    "take another folder, or remove this one"
                )

    @property
    def _description(self) -> dict[str, JsonValue] | None:
        return None if isinstance(self._method, RandomChoice) else dict(self._trainer.description)

    def _train(self, labelled_rows: IntArray, number: int) -> TrainedProxy | None:
        if isinstance(self._method, RandomChoice):
            return None
        # Sorted, so that the order of training is the seed's alone.
        labelled = self._data.take(np.sort(labelled_rows))
        return self._trainer.train(labelled, seed=self._proxy_seed(number))

    def _look(self, proxy: TrainedProxy | None, labelled_rows: IntArray, pool_rows: IntArray) -> Evidence:
        scoring = self._config.scoring
        evidence = gather(self._method, proxy, self._data.take(pool_rows), scoring)
        if not isinstance(self._method, KCenter):
            return evidence
        centres = gather(self._method, proxy, self._data.take(labelled_rows), scoring)
        return Evidence(
            num_images=evidence.num_images, features_ND=evidence.features_ND, centres_CD=centres.features_ND
        )

    def _rng(self, number: int) -> np.random.Generator:
        """Give each round its own draws, so that a resumed run goes on as if it had not stopped."""
        return np.random.default_rng([self._config.seed, number, 0])

    def _proxy_seed(self, number: int) -> int:
        return int(np.random.default_rng([self._config.seed, number, 1]).integers(2**31))

    def _subset(self, rows: IntArray, number: int, evaluations: int, seconds: SelectionSeconds) -> Subset:
        return Subset(
            ids=tuple(self._data.ids_B[rows].tolist()),
            score=self._method.name,
            fraction=self._config.shares[number],
            seed=self._config.seed,
            data_sha256=self._data.sha256,
            proxy=self._description,
            proxy_evaluations=evaluations,
            layer=layer_of(self._method, self._config.scoring),
            seconds=seconds,
        )


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

"""Core-sets by a stand-in for training: who is kept, what is recorded, and what a label may touch."""

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_proxy import StubTrainer, pixel_images

from training.data.images import LabelledImages
from training.errors import SelectionError
from training.selection import core_set as module
from training.selection.core_set import (
    CoreSetConfig,
    ranking_scores,
    same_steps_epochs,
    select_core_set,
    select_core_sets,
)
from training.selection.methods import Ccs, KCenter
from training.selection.scoring import ScoringConfig
from training.selection.timing import PhaseSeconds

# From unsure to sure: logits differ by 0, 2, 4, ... of ten.
UNSURE_FIRST = pixel_images([[0, 51 * step] for step in range(6)], labels_N=[0, 1, 0, 1, 0, 1])
# Right at each of four epochs or not: forgotten 2, 0, 1 times, never right, 0, 1.
HISTORIES = [[1, 0, 1, 0], [1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 0, 1]]


def trainer() -> StubTrainer:
    return StubTrainer(corrects=[[bool(history[epoch]) for history in HISTORIES] for epoch in range(4)])


@pytest.mark.parametrize("score", ["least_confidence", "entropy", "margin"])
def test_the_unsure_are_kept_most_wanted_first(score: str) -> None:
    core_set = select_core_set(CoreSetConfig(score=score, fraction=0.5), UNSURE_FIRST, trainer())
    assert core_set.subset.ids == (100, 101, 102)
    assert core_set.scores_N is not None
    assert (np.diff(core_set.scores_N) < 0).all()


def test_the_forgotten_are_kept() -> None:
    core_set = select_core_set(CoreSetConfig(score="forgetting_events", fraction=0.34), UNSURE_FIRST, trainer())
    assert core_set.scores_N is not None
    assert core_set.scores_N.tolist() == [2, 0, 1, np.inf, 0, 1]
    assert core_set.subset.ids == (103, 100)


def test_time_of_a_training_that_was_resumed_counts_in_full() -> None:
    resumed = StubTrainer(seconds=PhaseSeconds(wall_s=100, process_s=50))
    names = ("margin", "random")
    configs = [CoreSetConfig(score=name, fraction=0.5) for name in names]
    found = [core_set.subset.seconds.training for core_set in select_core_sets(configs, UNSURE_FIRST, resumed)]
    assert found == [PhaseSeconds(wall_s=100, process_s=50), PhaseSeconds()]


def test_the_layer_is_recorded_where_features_count() -> None:
    configs = [CoreSetConfig(score=score, scoring=ScoringConfig(layer="1")) for score in ("k_center", "margin")]
    core_sets = select_core_sets(configs, UNSURE_FIRST, trainer())
    assert [core_set.subset.layer for core_set in core_sets] == ["1", None]


def test_k_center_spreads_over_the_features() -> None:
    data = pixel_images([[0, 0], [1, 1], [2, 0], [255, 0], [0, 255], [1, 0]])
    config = CoreSetConfig(score="k_center", fraction=0.5, k_center=KCenter(start_share=0.0))
    for seed in range(5):
        chosen = select_core_set(CoreSetConfig(score="k_center", fraction=0.5, seed=seed), data, trainer()).subset.ids
        assert {103, 104} < set(chosen)
    assert len(select_core_set(config, data, trainer()).subset) == 3


def test_ccs_goes_by_its_base() -> None:
    config = CoreSetConfig(score="ccs", fraction=0.5, ccs=Ccs(base="least_confidence", hard_share=0.5, num_strata=3))
    assert set(select_core_set(config, UNSURE_FIRST, trainer()).subset.ids) == {103, 104, 105}
    config = CoreSetConfig(score="ccs", fraction=0.5, ccs=Ccs(hard_share=0.34, num_strata=2))
    # The infinite and the twice forgotten are dropped; of 0, 0 and 1, 1 three are kept.
    assert set(select_core_set(config, UNSURE_FIRST, trainer()).subset.ids) < {101, 102, 104, 105}


def test_random_trains_no_proxy() -> None:
    stub = trainer()
    core_set = select_core_set(CoreSetConfig(score="random", fraction=0.5), UNSURE_FIRST, stub)
    assert stub.calls == []
    assert (core_set.proxy, core_set.scores_N) == (None, None)
    assert (core_set.subset.proxy, core_set.subset.proxy_evaluations) == (None, 0)
    assert core_set.subset.seconds.training == PhaseSeconds()
    others = {
        select_core_set(CoreSetConfig(score="random", fraction=0.5, seed=s), UNSURE_FIRST, stub).subset.ids
        for s in range(9)
    }
    assert len(others) > 5


def test_what_was_done_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(module, "Stopwatch", lambda: _Laps(lambda: next(clock)))
    stub = trainer()
    subset = select_core_set(CoreSetConfig(score="margin", fraction=0.5, seed=7), UNSURE_FIRST, stub).subset
    assert stub.calls == [(UNSURE_FIRST.ids_B.tolist(), 7)]
    assert (subset.score, subset.fraction, subset.seed, subset.class_balance) == ("margin", 0.5, 7, False)
    assert subset.data_sha256 == UNSURE_FIRST.sha256
    assert subset.proxy == {"architecture": "stub"}
    assert subset.proxy_evaluations == 6
    # Laps in the order training, scoring, ranking.
    assert [phase.wall_s for phase in (subset.seconds.training, subset.seconds.scoring, subset.seconds.ranking)] == [
        0,
        1,
        2,
    ]
    assert subset.seconds.total.wall_s == 3


class _Laps:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def lap(self) -> PhaseSeconds:
        return PhaseSeconds(wall_s=self._clock())


def test_classes_are_balanced_if_asked_for() -> None:
    # The unsure are all of class 0.
    data = pixel_images([[0, 20 * step] for step in range(10)], labels_N=[0] * 5 + [1] * 5)
    plain, balanced = (
        select_core_set(CoreSetConfig(score="margin", fraction=0.4, class_balance=on), data, trainer()).subset
        for on in (False, True)
    )
    assert plain.ids == (100, 101, 102, 103)
    assert Counter(data.labels_B[balanced.rows_in(data)].tolist()) == {0: 2, 1: 2}
    assert set(balanced.ids) == {100, 101, 105, 106}
    assert balanced.class_balance


def test_one_proxy_serves_several_subsets() -> None:
    stub = trainer()
    names = ("margin", "forgetting_events", "ccs", "k_center", "random")
    configs = [CoreSetConfig(score=name, fraction=fraction) for name in names for fraction in (0.5, 0.34)]
    core_sets = select_core_sets(configs, UNSURE_FIRST, stub)
    assert len(stub.calls) == 1
    assert [(found.subset.score, len(found.subset)) for found in core_sets] == [
        (c.score, round(c.fraction * 6)) for c in configs
    ]
    alone = [select_core_set(config, UNSURE_FIRST, trainer()).subset.ids for config in configs]
    assert [found.subset.ids for found in core_sets] == alone
    # Each is charged for the proxy, but for the one that needs none.
    assert [found.subset.proxy_evaluations for found in core_sets] == [6] * 8 + [0] * 2
    assert [found.proxy is None for found in core_sets] == [False] * 8 + [True] * 2


def test_several_seeds_are_refused() -> None:
    with pytest.raises(SelectionError, match=r"^seed: got \[0, 1\]; must be one seed, since one proxy serves all$"):
        select_core_sets([CoreSetConfig(), CoreSetConfig(seed=1)], UNSURE_FIRST, trainer())


def test_a_proxy_that_tells_no_one_is_found_out() -> None:
    with pytest.raises(SelectionError, match="got no trained batch"):
        select_core_set(CoreSetConfig(score="forgetting_events"), UNSURE_FIRST, StubTrainer())


@pytest.mark.parametrize("score", ["margin", "k_center", "random"])
def test_label_free_methods_look_at_no_label(score: str) -> None:
    data = pixel_images(np.random.default_rng(0).integers(0, 256, (30, 3)))
    others = LabelledImages(
        images_BHWC=data.images_BHWC, labels_B=(data.labels_B + 1) % 3, ids_B=data.ids_B, classes=data.classes
    )
    config = CoreSetConfig(score=score, fraction=0.3, scoring=ScoringConfig(batch_size=7))
    first, second = (select_core_set(config, images, StubTrainer()).subset.ids for images in (data, others))
    assert first == second


def test_ranking_scores_order_everything() -> None:
    scores = ranking_scores("forgetting_events", UNSURE_FIRST, trainer())
    assert sorted(scores.tolist()) == [1, 2, 3, 4, 5, 6]
    # Never right, then twice forgotten, then once, then never: ties among the last two pairs are drawn.
    assert scores[3] == 6
    assert scores[0] == 5
    assert {scores[2], scores[5]} == {3, 4}
    assert (
        ranking_scores("random", UNSURE_FIRST, trainer(), seed=1).tolist()
        != ranking_scores("random", UNSURE_FIRST, trainer(), seed=2).tolist()
    )
    balanced = ranking_scores("margin", UNSURE_FIRST, trainer(), class_balance=True)
    best = np.argsort(-balanced)[:2]
    assert sorted(UNSURE_FIRST.labels_B[best].tolist()) == [0, 1]
    with pytest.raises(SelectionError, match=r"^ccs: size: got 20; must be in 0\.\.18, what a hard_share of 0\.1"):
        ranking_scores("ccs", pixel_images([[0, 1]] * 20), StubTrainer(corrects=[[True] * 20]))


@pytest.mark.parametrize("by_class", [False, True])
def test_more_than_strata_hold_is_refused_before_a_proxy_is_trained(by_class: bool) -> None:
    # Of the whole, a tenth of 6 drops none; a half drops 3. By class, the classes' own sizes decide, later.
    stub = trainer()
    config = CoreSetConfig(score="ccs", fraction=0.9, class_balance=by_class, ccs=Ccs(hard_share=0.5))
    with pytest.raises(
        SelectionError, match=r"^ccs: size: got \d; must be in 0\.\.\d, what a hard_share of 0\.5 leaves"
    ):
        select_core_set(config, UNSURE_FIRST, stub)
    assert len(stub.calls) == by_class


def test_settings_are_checked() -> None:
    for fraction in (0, 1.1):
        with pytest.raises(ValueError, match=rf"^fraction: got {fraction}; must be above 0 and at most 1$"):
            CoreSetConfig(fraction=fraction)
    with pytest.raises(ValueError, match=r"^seed: got 9223372036854775808; must be at most 9223372036854775807$"):
        CoreSetConfig(seed=1 << 63)
    with pytest.raises(ValueError, match=r"^seed: got -1; must be at least 0$"):
        CoreSetConfig(seed=-1)
    with pytest.raises(ValueError, match=r"^batch_size: got 0; must be at least 1$"):
        ScoringConfig(batch_size=0)


@pytest.mark.parametrize(
    ("epochs", "subset", "batch_size", "expected"),
    [
        # 391 steps an epoch on 50,000 images, 196 on half of them: 181 epochs are 361.07 on half.
        (181, 25_000, 128, 361),
        (10, 50_000, 128, 10),
        (10, 15_000, 500, 33),
        (1, 49_999, 50_000, 1),
    ],
)
def test_epochs_for_the_same_steps(epochs: int, subset: int, batch_size: int, expected: int) -> None:
    found = same_steps_epochs(epochs, num_images=50_000, subset_size=subset, batch_size=batch_size)
    assert found == expected


@given(st.integers(1, 300), st.integers(1, 5000), st.integers(1, 600), st.floats(0.01, 1))
def test_steps_agree_to_half_an_epoch(epochs: int, num_images: int, batch_size: int, fraction: float) -> None:
    subset_size = max(1, round(num_images * fraction))
    found = same_steps_epochs(epochs, num_images=num_images, subset_size=subset_size, batch_size=batch_size)
    an_epoch = math.ceil(subset_size / batch_size)
    assert abs(found * an_epoch - epochs * math.ceil(num_images / batch_size)) <= an_epoch / 2

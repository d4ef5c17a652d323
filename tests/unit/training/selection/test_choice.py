"""Each method's choice from given evidence, whole or class by class."""

from collections import Counter

import numpy as np
import pytest

from cascade_serve.core.arrays import FloatArray
from training.errors import SelectionError
from training.selection.choice import Evidence, choose, choose_by_class
from training.selection.methods import ENTROPY, FORGETTING_EVENTS, Ccs, CoreSetMethod, KCenter, RandomChoice

METHODS: tuple[CoreSetMethod, ...] = (ENTROPY, FORGETTING_EVENTS, KCenter(), Ccs(hard_share=0.0), RandomChoice())


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def evidence(*scores: float) -> Evidence:
    scores_N = np.array(scores, dtype=np.float32)
    return Evidence(num_images=len(scores), scores_N=scores_N, features_ND=scores_N[:, None])


def floats(*values: float) -> FloatArray:
    return np.array(values, dtype=np.float32)


def test_the_highest_scores_are_kept_in_order() -> None:
    assert choose(ENTROPY, evidence(0.1, 0.9, 0.5, 0.7), 3, rng()).tolist() == [1, 3, 2]


def test_random_is_drawn() -> None:
    chosen = Counter(int(row) for seed in range(300) for row in choose(RandomChoice(), evidence(0, 0, 9), 1, rng(seed)))
    assert all(70 < chosen[row] < 130 for row in range(3))


def test_a_core_set_by_k_center_starts_from_random_points() -> None:
    pool = evidence(*range(100))
    starts = set()
    for seed in range(50):
        chosen = choose(KCenter(start_share=0.02), pool, 5, rng(seed)).tolist()
        first, second = sorted(chosen[:2])
        starts |= {first, second}
        # The third covers best what the first two don't: an end, or the middle between them.
        assert chosen[2] in (0, 99, (first + second) // 2, (first + second + 1) // 2)
        assert len(set(chosen)) == 5
    assert len(starts) > 40


def test_active_learning_by_k_center_starts_from_the_labelled() -> None:
    pool = Evidence(num_images=3, features_ND=floats(1, 5, 9)[:, None], centres_CD=floats(0, 10)[:, None])
    assert choose(KCenter(start_share=1.0), pool, 1, rng()).tolist() == [1]


def test_ccs_passes_its_settings_on() -> None:
    chosen = choose(Ccs(hard_share=0.5, num_strata=2), evidence(*range(10)), 5, rng())
    assert sorted(chosen.tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_all_sizes_give_different_rows(method: CoreSetMethod) -> None:
    pool = evidence(3, 1, 4, 1, 5, 9, 2, 6)
    for size in range(9):
        chosen = choose(method, pool, size, rng())
        assert len(set(chosen.tolist())) == len(chosen) == size
    with pytest.raises(SelectionError, match=r"^size: got 9; must be in 0\.\.8, the pool$"):
        choose(method, pool, 9, rng())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_classes_keep_their_shares(method: CoreSetMethod) -> None:
    labels = np.array([0] * 20 + [1] * 10 + [3] * 10)
    # Class 3 is the hardest throughout, and would take all.
    pool = evidence(*(10 * labels + rng().random(40)))
    chosen = choose_by_class(method, pool, labels, 12, rng())
    assert Counter(labels[chosen].tolist()) == {0: 6, 1: 3, 3: 3}
    assert len(set(chosen.tolist())) == 12
    # Any first part is near its shares too.
    assert Counter(labels[chosen[:4]].tolist()) == {0: 2, 1: 1, 3: 1}


def test_each_class_keeps_its_own_order() -> None:
    pool, labels = evidence(1, 2, 3, 14, 15, 16), np.array([0, 0, 0, 1, 1, 1])
    chosen = choose_by_class(ENTROPY, pool, labels, 4, rng())
    assert [row for row in chosen if row < 3] == [2, 1]
    assert [row for row in chosen if row >= 3] == [5, 4]

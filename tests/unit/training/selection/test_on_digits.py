"""Selection with real proxies: a small network on scikit-learn's digits."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from training.data.digits import load_digits
from training.data.images import LabelledImages
from training.inputs import Normalisation
from training.loop_config import LoopConfig
from training.members import MemberConfig, MemberTrainer
from training.selection.active_learning import ActiveLearningConfig, run_active_learning
from training.selection.core_set import CoreSetConfig, select_core_sets
from training.selection.correlation import correlate_ranks
from training.selection.methods import FORGETTING_EVENTS, MARGIN
from training.selection.scoring import ScoringConfig, rate

NORMALISATION = Normalisation(mean=(0.3053,), std=(0.3760,))
TRAINER = MemberTrainer(
    config=MemberConfig(name="proxy", architecture="digits_cnn_xs", loop=LoopConfig(epochs=6)),
    normalisation=NORMALISATION,
)


@cache
def digits() -> LabelledImages:
    return load_digits().take(np.arange(600))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_core_sets_by_every_score() -> None:
    names = ("least_confidence", "entropy", "margin", "forgetting_events", "k_center", "ccs", "random")
    configs = [CoreSetConfig(score=name, fraction=0.3, seed=1) for name in names]
    core_sets = dict(zip(names, select_core_sets(configs, digits(), TRAINER), strict=True))
    for name, core_set in core_sets.items():
        subset = core_set.subset
        assert len(subset.apply(digits())) == 180
        assert subset.proxy_evaluations == (0 if name == "random" else 3600)
        assert (subset.seconds.training.wall_s > 0.01) is (name != "random")
    scores = {name: found.scores_N for name, found in core_sets.items() if found.scores_N is not None}
    assert set(scores) == set(names) - {"k_center", "random"}
    # Without augmentation and by the trained proxy: scoring once more gives the same.
    proxy = core_sets["margin"].proxy
    assert proxy is not None
    assert np.array_equal(rate(MARGIN, proxy, digits(), ScoringConfig(batch_size=32)), scores["margin"])
    # What the proxy is unsure of is also what it forgot.
    (_, least, _, forgetting, _), *_ = correlate_ranks("digits", {"margin": scores.pop("margin"), **scores}).matrix
    assert least is not None
    assert least > 0.95
    assert forgetting is not None
    assert forgetting > 0.1


def test_the_forgetting_meter_sees_every_image_each_epoch() -> None:
    meter = FORGETTING_EVENTS.make_meter(digits().ids_B)
    TRAINER.train(digits(), seed=1, observers=(meter,))
    assert not np.isnan(meter.scores()).any()
    finite = meter.scores()[np.isfinite(meter.scores())]
    # Six presentations allow for three falls.
    assert finite.max() <= 3
    assert len(finite) > 500


def test_active_learning_resumes_and_repeats(tmp_path: Path) -> None:
    config = ActiveLearningConfig(shares=(0.05, 0.1, 0.15), seed=2)
    whole = run_active_learning(config, digits(), TRAINER, folder=tmp_path)
    (tmp_path / "round-02.json").unlink()
    again = run_active_learning(config, digits(), TRAINER, folder=tmp_path)
    assert [subset.ids for subset in again] == [subset.ids for subset in whole]
    assert [len(subset) for subset in whole] == [30, 60, 90]
    assert whole[-1].proxy_evaluations == 6 * (30 + 60)

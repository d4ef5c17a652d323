"""Labels bought round after round: who, by what, at what cost, and again after a stop."""

from pathlib import Path

import numpy as np
import pytest
from stub_proxy import StubTrainer, pixel_images

from training.data.images import LabelledImages
from training.errors import SelectionError
from training.selection.active_learning import PAPER_SHARES, ActiveLearningConfig, run_active_learning
from training.selection.scoring import ScoringConfig
from training.selection.subset import Subset, read_subset
from training.selection.timing import PhaseSeconds

POOL = pixel_images([[0, 0, 5 * step] for step in range(50)], labels_N=np.arange(50) % 3)
CONFIG = ActiveLearningConfig(score="margin", shares=(0.1, 0.3, 0.5), seed=3)


def test_the_papers_rounds() -> None:
    assert [round(share * 50_000) for share in PAPER_SHARES] == [1_000, 5_000, 10_000, 15_000, 20_000, 25_000]
    assert ActiveLearningConfig().shares == PAPER_SHARES


@pytest.mark.parametrize("score", ["least_confidence", "entropy", "margin"])
def test_each_round_adds_the_least_sure_of_the_pool(score: str) -> None:
    trainer = StubTrainer()
    first, second, third = run_active_learning(ActiveLearningConfig(score=score, shares=CONFIG.shares), POOL, trainer)
    assert [len(subset) for subset in (first, second, third)] == [5, 15, 25]
    # The lower the id, the less sure.
    pool = [number for number in POOL.ids_B.tolist() if number not in first.ids]
    assert second.ids == (*first.ids, *pool[:10])
    assert third.ids == (*first.ids, *pool[:20])


def test_the_first_images_are_drawn() -> None:
    firsts = {
        run_active_learning(ActiveLearningConfig(shares=(0.1,), seed=seed), POOL, StubTrainer())[0].ids
        for seed in range(20)
    }
    assert len(firsts) == 20
    assert len({number for ids in firsts for number in ids}) > 35


def test_proxies_are_trained_on_what_is_labelled_with_new_seeds() -> None:
    trainer = StubTrainer()
    subsets = run_active_learning(CONFIG, POOL, trainer)
    assert [ids for ids, _ in trainer.calls] == [sorted(subset.ids) for subset in subsets[:-1]]
    assert len({seed for _, seed in trainer.calls}) == 2
    assert [subset.proxy_evaluations for subset in subsets] == [0, 5, 20]


def test_k_center_covers_from_the_labelled() -> None:
    data = pixel_images([[0, 0]] * 20 + [[255, 0], [0, 255], [255, 255]])
    for seed in range(5):
        config = ActiveLearningConfig(score="k_center", shares=(0.1, 0.22), seed=seed)
        subset = run_active_learning(config, data, StubTrainer())[-1]
        assert len(subset) == 5
        assert {120, 121, 122} < set(subset.ids)


def test_random_trains_no_proxy() -> None:
    trainer = StubTrainer()
    subsets = run_active_learning(ActiveLearningConfig(score="random", shares=(0.1, 0.5)), POOL, trainer)
    assert trainer.calls == []
    assert subsets[-1].proxy is None
    assert len(set(subsets[-1].ids)) == 25


@pytest.mark.parametrize("score", ["entropy", "k_center"])
def test_labels_of_the_pool_are_not_looked_at(score: str) -> None:
    others = LabelledImages(
        images_BHWC=POOL.images_BHWC, labels_B=(POOL.labels_B + 1) % 3, ids_B=POOL.ids_B, classes=POOL.classes
    )
    config = ActiveLearningConfig(score=score, shares=(0.1, 0.3))
    first, second = (run_active_learning(config, data, StubTrainer())[-1].ids for data in (POOL, others))
    assert first == second


def test_seconds_are_the_sum_over_the_rounds() -> None:
    subsets = run_active_learning(CONFIG, POOL, StubTrainer())
    assert subsets[0].seconds.total.wall_s == 0
    for phase in ("training", "scoring", "ranking"):
        walls = [getattr(subset.seconds, phase).wall_s for subset in subsets]
        assert 0 == walls[0] < walls[1] < walls[2]


def test_each_round_is_a_subset_file_and_is_not_run_twice(tmp_path: Path) -> None:
    told: list[Subset] = []
    whole = run_active_learning(CONFIG, POOL, StubTrainer(), folder=tmp_path, progress=told.append)
    assert tuple(told) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-00.json", "round-01.json", "round-02.json"]
    assert read_subset(tmp_path / "round-01.json") == whole[1]
    trainer = StubTrainer()
    assert run_active_learning(CONFIG, POOL, trainer, folder=tmp_path) == whole
    assert trainer.calls == []


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole = run_active_learning(CONFIG, POOL, StubTrainer(), folder=tmp_path)
    (tmp_path / "round-02.json").unlink()
    trainer = StubTrainer()
    again = run_active_learning(CONFIG, POOL, trainer, folder=tmp_path)
    assert [subset.ids for subset in again] == [subset.ids for subset in whole]
    assert [ids for ids, _ in trainer.calls] == [sorted(whole[1].ids)]
    # More rounds may follow later.
    longer = ActiveLearningConfig(score="margin", shares=(*CONFIG.shares, 1.0), seed=3)
    assert run_active_learning(longer, POOL, StubTrainer(), folder=tmp_path)[:3] == again


@pytest.mark.parametrize(
    ("config", "data", "name", "field"),
    [
        (ActiveLearningConfig(score="entropy", shares=CONFIG.shares, seed=3), POOL, "stub", "score: got 'margin'"),
        (ActiveLearningConfig(score="margin", shares=CONFIG.shares, seed=4), POOL, "stub", "seed: got 3; must be 4"),
        (
            ActiveLearningConfig(score="margin", shares=(0.2, 0.3), seed=3),
            POOL,
            "stub",
            "fraction: got 0.1; must be 0.2",
        ),
        (CONFIG, POOL.take(np.arange(40)), "stub", "data_sha256: got"),
        (CONFIG, POOL, "other", "proxy: got {'architecture': 'stub'}; must be {'architecture': 'other'}"),
    ],
    ids=["score", "seed", "fraction", "data", "proxy"],
)
def test_rounds_of_another_run_are_refused(
    tmp_path: Path, config: ActiveLearningConfig, data: LabelledImages, name: str, field: str
) -> None:
    run_active_learning(CONFIG, POOL, StubTrainer(), folder=tmp_path)
    with pytest.raises(SelectionError, match=rf"round-00\.json: {field}.*as this run has it; take another folder"):
        run_active_learning(config, data, StubTrainer(name=name), folder=tmp_path)


def test_rounds_by_another_layer_are_refused_where_features_count(tmp_path: Path) -> None:
    def config(score: str, layer: str | None) -> ActiveLearningConfig:
        scoring = ScoringConfig(layer=layer, batch_size=64 if layer is None else 8)
        return ActiveLearningConfig(score=score, shares=CONFIG.shares, scoring=scoring)

    run_active_learning(config("k_center", None), POOL, StubTrainer(), folder=tmp_path / "k_center")
    with pytest.raises(SelectionError, match=r"round-00\.json: layer: got None; must be '1', as this run has it"):
        run_active_learning(config("k_center", "1"), POOL, StubTrainer(), folder=tmp_path / "k_center")
    # A score of probabilities looks at no layer, and the size of a batch changes no choice.
    whole = run_active_learning(config("margin", None), POOL, StubTrainer(), folder=tmp_path / "margin")
    again = run_active_learning(config("margin", "1"), POOL, StubTrainer(), folder=tmp_path / "margin")
    assert again == whole


def test_time_of_a_training_that_was_resumed_counts_in_full() -> None:
    trainer = StubTrainer(seconds=PhaseSeconds(wall_s=100, process_s=50))
    subset = run_active_learning(CONFIG, POOL, trainer)[-1]
    assert subset.seconds.training == PhaseSeconds(wall_s=200, process_s=100)


def test_a_round_that_does_not_go_on_from_the_one_before_is_refused(tmp_path: Path) -> None:
    run_active_learning(CONFIG, POOL, StubTrainer(), folder=tmp_path)
    path = tmp_path / "round-01.json"
    subset = read_subset(path)
    path.write_text(
        path.read_text().replace(f"[{subset.ids[0]},{subset.ids[1]},", f"[{subset.ids[1]},{subset.ids[0]},")
    )
    with pytest.raises(SelectionError, match=r"round-01\.json: ids: got \("):
        run_active_learning(CONFIG, POOL, StubTrainer(), folder=tmp_path)


@pytest.mark.parametrize("shares", [(), (0.5, 0.5), (0.5, 0.2), (0.0, 0.5), (0.5, 1.1)])
def test_shares_must_rise(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"^shares: got \(.*\); must rise, from above 0 to at most 1$"):
        ActiveLearningConfig(shares=shares)


def test_shares_of_the_same_size_are_refused() -> None:
    config = ActiveLearningConfig(shares=(0.1, 0.101))
    message = r"^shares: got \(0\.1, 0\.101\), of 50 images \[5, 5\]; must differ by at least one image$"
    with pytest.raises(SelectionError, match=message):
        run_active_learning(config, POOL, StubTrainer())
    with pytest.raises(ValueError, match=r"^seed: got -1; must be at least 0$"):
        ActiveLearningConfig(seed=-1)


def test_all_may_be_labelled() -> None:
    subsets = run_active_learning(ActiveLearningConfig(shares=(0.5, 1.0)), POOL, StubTrainer())
    assert sorted(subsets[-1].ids) == POOL.ids_B.tolist()

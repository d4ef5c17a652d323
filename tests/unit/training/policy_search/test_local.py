import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_trials import IMAGES, AnalyticTrials, merit, zero_policy

from training.errors import PolicySearchError
from training.loop_config import LoopConfig
from training.policy_search.config import PolicySearchConfig, Strategy
from training.policy_search.history import IntervalRecord
from training.policy_search.lineage import best_record, last_records, lineage
from training.policy_search.local import STATE_FILE, run_local

EPOCHS = 20
CONFIG = PolicySearchConfig(population=8, perturbation_interval=3, loop=LoopConfig(epochs=EPOCHS))
TRIALS = AnalyticTrials(EPOCHS)


class _Killed(BaseException):
    """Stands for the signal that ends a process."""


def _run(
    folder: Path, config: PolicySearchConfig = CONFIG, trials: AnalyticTrials = TRIALS
) -> tuple[IntervalRecord, ...]:
    return run_local(config, trials, zero_policy(), folder=folder, fingerprint="one")


def _untimed(records: tuple[IntervalRecord, ...]) -> list[IntervalRecord]:
    return [replace(record, seconds=0.0) for record in records]


def _best_score(records: tuple[IntervalRecord, ...]) -> float:
    return best_record(last_records(records).values(), np.random.default_rng(0)).accuracy


def test_every_trial_trains_all_epochs_in_intervals(tmp_path: Path) -> None:
    records = _run(tmp_path)
    assert [(record.trial, record.start_epoch, record.epochs) for record in records] == [
        (trial, start, min(3, EPOCHS - start)) for start in range(0, EPOCHS, 3) for trial in range(8)
    ]
    assert sum(record.evaluations for record in records) == 8 * EPOCHS * IMAGES
    assert {record.policy for record in records[:8]} == {zero_policy()}


def test_the_bottom_quarter_goes_on_from_the_top_quarter_and_explores(tmp_path: Path) -> None:
    records = _run(tmp_path)
    generations = [records[start : start + 8] for start in range(0, len(records), 8)]
    for before, after in pairwise(generations):
        ranked = [record.trial for record in sorted(before, key=lambda record: record.accuracy)]
        clones = {record.trial: record.cloned_from for record in after if record.cloned_from is not None}
        assert set(clones) == set(ranked[:2])
        assert set(clones.values()) <= set(ranked[-2:])
        for record in after:
            source = before[clones.get(record.trial, record.trial)]
            assert record.parent == source.key
            assert (record.policy == source.policy) == (record.trial not in clones)


def test_a_score_is_the_sum_over_its_lineage(tmp_path: Path) -> None:
    """Weights really go over: a clone's score holds what its parent had earned, with luck of a thousandth."""
    records = _run(tmp_path)
    for last in last_records(records).values():
        earned = sum(
            merit(record.policy, epoch / EPOCHS) / EPOCHS
            for record in lineage(records, last.key)
            for epoch in range(record.start_epoch, record.end_epoch)
        )
        assert last.accuracy == pytest.approx(earned, abs=0.02)


def test_the_same_seed_gives_the_same_search(tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    for folder in (first, second, other):
        folder.mkdir()
    assert _untimed(_run(first)) == _untimed(_run(second))
    assert _untimed(_run(first)) != _untimed(_run(other, replace(CONFIG, seed=1)))


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("killed_at", [1, 17, 40, 55])
def test_a_killed_search_goes_on_to_the_same_result(tmp_path: Path, strategy: Strategy, killed_at: int) -> None:
    config = replace(CONFIG, strategy=strategy, checkpoint_interval_s=0)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    seen: list[str] = []

    def kill(record: IntervalRecord) -> None:
        seen.append(record.key)
        if len(seen) == killed_at:
            raise _Killed

    with pytest.raises(_Killed):
        run_local(config, TRIALS, zero_policy(), folder=killed, fingerprint="one", progress=kill)
    seen_again: list[str] = []
    records = run_local(
        config,
        TRIALS,
        zero_policy(),
        folder=killed,
        fingerprint="one",
        progress=lambda record: seen_again.append(record.key),
    )
    assert _untimed(records) == _untimed(_run(whole, config))
    # Only the interval that was under way is done again.
    assert len(seen_again) == 56 - (killed_at - 1) // 8 * 8


def test_states_are_written_no_oftener_than_asked(tmp_path: Path) -> None:
    _run(tmp_path, replace(CONFIG, checkpoint_interval_s=math.inf))
    assert not list(tmp_path.iterdir())


def test_the_state_of_another_search_is_refused(tmp_path: Path) -> None:
    _run(tmp_path, replace(CONFIG, checkpoint_interval_s=0))
    with pytest.raises(PolicySearchError, match=r"population\.pt: is the state of a search of other data or settings"):
        run_local(CONFIG, TRIALS, zero_policy(), folder=tmp_path, fingerprint="two")


def test_a_broken_state_is_named(tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).write_bytes(b"torn")
    with pytest.raises(PolicySearchError, match=r"population\.pt: state of the search can't be read"):
        _run(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        3,
        {},
        {"fingerprint": "one"},
        {"fingerprint": "one", "generations": [[{"key": "0/2"}]], "policies": [], "contestants": []},
        {"fingerprint": "one", "generations": [], "policies": [[["op0", 77, 0]]] * 8, "contestants": [{}] * 8},
    ],
)
def test_a_state_of_other_content_is_named(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / STATE_FILE)
    with pytest.raises(PolicySearchError, match=r"population\.pt: state of the search can't be read"):
        _run(tmp_path)


def test_a_diverged_trial_is_the_worst_until_it_is_replaced(tmp_path: Path) -> None:
    records = _run(tmp_path, trials=AnalyticTrials(EPOCHS, diverging={5: 4}))
    own = [record for record in records if record.trial == 5]
    assert [(record.diverged, record.accuracy == 0) for record in own[:3]] == [
        (False, False),
        (True, True),
        (False, False),
    ]
    assert own[1].evaluations == 0
    assert own[2].cloned_from is not None
    assert own[-1].end_epoch == EPOCHS


def test_a_search_of_which_everything_diverged_comes_to_its_end(tmp_path: Path) -> None:
    records = _run(tmp_path, trials=AnalyticTrials(EPOCHS, diverging=dict.fromkeys(range(8), 0)))
    assert all(record.diverged for record in records)
    assert len(records) == 56


def test_one_trial_alone_never_changes(tmp_path: Path) -> None:
    records = _run(tmp_path, replace(CONFIG, population=1))
    assert {record.policy for record in records} == {zero_policy()}
    assert {record.cloned_from for record in records} == {None}


def test_random_constant_draws_a_policy_a_trial_and_keeps_it(tmp_path: Path) -> None:
    records = _run(tmp_path, replace(CONFIG, strategy=Strategy.RANDOM_CONSTANT))
    policies = [{record.policy for record in records if record.trial == trial} for trial in range(8)]
    assert [len(own) for own in policies] == [1] * 8
    assert len(set.union(*policies)) == 8
    assert {record.cloned_from for record in records} == {None}


def test_random_schedule_explores_as_often_as_pba_without_looking(tmp_path: Path) -> None:
    config = replace(CONFIG, strategy=Strategy.RANDOM_SCHEDULE)
    records = _run(tmp_path, config)
    generations = [records[start : start + 8] for start in range(0, len(records), 8)]
    for before, after in pairwise(generations):
        changed = [new.trial for old, new in zip(before, after, strict=True) if old.policy != new.policy]
        assert len(changed) == 2
    # Other luck in training, the same policies.
    again = _run(tmp_path, config, AnalyticTrials(EPOCHS, seed=7))
    assert [record.policy for record in again] == [record.policy for record in records]


def test_pba_climbs_and_beats_random_search_at_equal_compute(tmp_path: Path) -> None:
    """Over 10 seeds of a score whose best policy grows from weak to strong."""
    epochs = 60
    scores: dict[Strategy, list[float]] = {strategy: [] for strategy in Strategy}
    evaluations: dict[Strategy, int] = dict.fromkeys(Strategy, 0)
    for strategy in Strategy:
        for seed in range(10):
            config = replace(CONFIG, population=16, loop=LoopConfig(epochs=epochs), seed=seed, strategy=strategy)
            records = _run(tmp_path, config, AnalyticTrials(epochs, seed=seed))
            scores[strategy].append(_best_score(records))
            evaluations[strategy] += sum(record.evaluations for record in records)
    assert len(set(evaluations.values())) == 1
    unchanged = np.mean([merit(zero_policy(), epoch / epochs) for epoch in range(epochs)])
    means = {strategy: float(np.mean(values)) for strategy, values in scores.items()}
    assert means[Strategy.PBA] > unchanged + 0.15, means
    assert means[Strategy.PBA] > means[Strategy.RANDOM_CONSTANT] + 0.02, means
    assert means[Strategy.PBA] > means[Strategy.RANDOM_SCHEDULE] + 0.02, means

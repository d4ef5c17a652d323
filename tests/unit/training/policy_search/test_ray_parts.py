"""The parts of the ray backend that need no ray."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_trials import AnalyticTrials, zero_policy

from training.errors import PolicySearchError
from training.loop_config import LoopConfig
from training.policy_search.config import PolicySearchConfig, RayConfig, Strategy
from training.policy_search.controls import plan_policies
from training.policy_search.history import policy_to_json, record_from_json
from training.policy_search.ray_backend import make_starts
from training.policy_search.ray_sessions import JOURNAL, append_record, next_session, read_checkpoints, read_records
from training.policy_search.ray_trainable import (
    ACCURACY,
    INTERVAL,
    RECORD,
    Actor,
    SearchOrder,
    Start,
    interval_number,
    trial_name,
    trial_number,
)

EPOCHS = 5
CONFIG = PolicySearchConfig(population=4, perturbation_interval=2, loop=LoopConfig(epochs=EPOCHS))
POLICY = zero_policy()


def _order(config: PolicySearchConfig = CONFIG, starts: dict[int, Start] | None = None) -> SearchOrder:
    fresh = dict.fromkeys(range(config.population), Start(policy=POLICY))
    return SearchOrder(
        config=config,
        make_trial=AnalyticTrials(EPOCHS),
        plan=plan_policies(config, POLICY),
        starts=fresh | (starts or {}),
    )


def _actor(trial: int, order: SearchOrder) -> Actor:
    return Actor(trial, order, policy_to_json(order.starts[trial].policy))


def _run_session(folder: Path, order: SearchOrder, steps: dict[int, int]) -> None:
    """Let some trials take some steps, each with a checkpoint and a line in the journal."""
    session = next_session(folder)
    session.mkdir()
    for trial, count in steps.items():
        actor = _actor(trial, order)
        for step in range(count):
            append_record(session / JOURNAL, actor.step()[RECORD])
            checkpoint = session / trial_name(trial) / f"checkpoint_{step:06d}"
            checkpoint.mkdir(parents=True)
            actor.save(checkpoint)


def test_an_actor_tells_ray_what_it_needs() -> None:
    actor = _actor(1, _order())
    told = [actor.step() for _ in range(3)]
    assert [result[INTERVAL] for result in told] == [1, 2, 3]
    assert [result["done"] for result in told] == [False, False, True]
    records = [record_from_json(json.loads(result[RECORD])) for result in told]
    assert [record.accuracy for record in records] == [result[ACCURACY] for result in told]
    assert [record.parent for record in records] == [None, records[0].key, records[1].key]
    assert [(record.start_epoch, record.epochs) for record in records] == [(0, 2), (2, 2), (4, 1)]


def test_an_actor_goes_on_from_anothers_checkpoint(tmp_path: Path) -> None:
    better, worse = _actor(0, _order()), _actor(1, _order())
    better.step()
    better.save(tmp_path)
    worse.step()
    worse.load(tmp_path)
    record = record_from_json(json.loads(worse.step()[RECORD]))
    assert (record.trial, record.cloned_from, record.start_epoch) == (1, 0, 2)


def test_keys_of_repeated_intervals_differ() -> None:
    keys = {record_from_json(json.loads(_actor(1, _order()).step()[RECORD])).key for _ in range(5)}
    assert len(keys) == 5


def test_a_control_follows_its_plan() -> None:
    config = replace(CONFIG, strategy=Strategy.RANDOM_SCHEDULE)
    order = _order(config)
    assert order.plan is not None
    for trial in range(4):
        actor = _actor(trial, order)
        policies = [record_from_json(json.loads(actor.step()[RECORD])).policy for _ in range(3)]
        assert tuple(policies) == order.plan[trial]


def test_a_new_search_starts_afresh(tmp_path: Path) -> None:
    assert make_starts(CONFIG, POLICY, read_checkpoints(tmp_path)) == dict.fromkeys(range(4), Start(policy=POLICY))


def test_a_synchronous_search_goes_on_from_the_last_common_interval(tmp_path: Path) -> None:
    _run_session(tmp_path, _order(), {0: 2, 1: 1, 2: 2, 3: 3})
    starts = make_starts(CONFIG, POLICY, read_checkpoints(tmp_path))
    assert {start.end_epoch for start in starts.values()} == {2}
    accuracies = {record.trial: record.accuracy for record in read_records(tmp_path) if record.end_epoch == 2}
    ranked = sorted(accuracies, key=lambda trial: accuracies[trial])
    clone, parent = starts[ranked[0]], starts[ranked[-1]]
    assert clone.checkpoint == parent.checkpoint
    assert clone.policy != POLICY
    assert {starts[trial].policy for trial in ranked[1:]} == {POLICY}
    # A second session, from these.
    _run_session(tmp_path, _order(starts=starts), dict.fromkeys(range(4), 1))
    later = read_records(tmp_path)[8:]
    assert {(record.start_epoch, record.end_epoch) for record in later} == {(2, 4)}
    assert [record.cloned_from for record in later if record.trial == ranked[0]] == [ranked[-1]]
    again = make_starts(CONFIG, POLICY, read_checkpoints(tmp_path))
    assert {start.end_epoch for start in again.values()} == {4}
    assert all("session_001" in str(start.checkpoint) for start in again.values())


@pytest.mark.parametrize(
    "config",
    [
        replace(CONFIG, strategy=Strategy.RANDOM_CONSTANT),
        replace(CONFIG, ray=RayConfig(synchronous=False)),
    ],
)
def test_trials_that_wait_for_nobody_go_on_from_their_own(tmp_path: Path, config: PolicySearchConfig) -> None:
    _run_session(tmp_path, _order(config), {0: 2, 1: 1, 3: 3})
    starts = make_starts(config, POLICY, read_checkpoints(tmp_path))
    # Trial 3 was at its end, but goes back one interval: without its result it counts as unfinished.
    assert [starts[trial].end_epoch for trial in range(4)] == [4, 2, 0, 4]
    assert starts[2].checkpoint is None


def test_half_written_files_are_left_out(tmp_path: Path) -> None:
    _run_session(tmp_path, _order(), {0: 2, 1: 2})
    journal = tmp_path / "session_000" / JOURNAL
    whole = read_records(tmp_path)
    journal.write_text(journal.read_text()[:-40])
    assert read_records(tmp_path) == whole[:-1]
    folder = tmp_path / "session_000" / trial_name(0)
    (folder / "checkpoint_000001" / "record.json").write_text("{")
    (folder / "checkpoint_000000" / "contestant.pt").unlink()
    assert {checkpoint.record.trial for checkpoint in read_checkpoints(tmp_path)} == {1}


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    _run_session(tmp_path, _order(), {0: 2})
    journal = tmp_path / "session_000" / JOURNAL
    journal.write_text("{}\n" + journal.read_text())
    with pytest.raises(PolicySearchError, match=r"records\.jsonl: line 1: is no record"):
        read_records(tmp_path)


def test_numbers_and_names() -> None:
    assert [trial_number(trial_name(trial)) for trial in (0, 7, 12345)] == [0, 7, 12345]
    assert [interval_number(epoch, CONFIG) for epoch in (0, 2, 4, 5)] == [0, 1, 2, 3]

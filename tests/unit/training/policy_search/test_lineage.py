import json
from dataclasses import replace

import numpy as np
import pytest

from training.augment.policy import PolicyEntry, PolicySchedule, Segment
from training.errors import PolicySearchError
from training.policy_search.history import IntervalRecord, record_from_json, record_key, record_to_json
from training.policy_search.lineage import best_record, last_records, lineage, schedule_of

_A, _B, _C = ((PolicyEntry(op="rotate", probability=value, magnitude=value),) for value in (0, 1, 2))


def _record(trial: int, start: int, epochs: int, policy: tuple[PolicyEntry, ...], parent: str | None) -> IntervalRecord:
    return IntervalRecord(
        key=record_key(trial, start + epochs),
        parent=parent,
        trial=trial,
        start_epoch=start,
        epochs=epochs,
        policy=policy,
        accuracy=0.5,
        evaluations=epochs,
        seconds=1.0,
    )


# Trial 1 takes over from trial 0 after epoch 3 and again from trial 2 after epoch 6; trial 0 is cloned back at 8.
_RECORDS = (
    _record(0, 0, 3, _A, None),
    _record(1, 0, 3, _B, None),
    _record(2, 0, 3, _A, None),
    _record(0, 3, 3, _A, "0/3"),
    _record(1, 3, 3, _B, "0/3"),
    _record(2, 3, 3, _A, "2/3"),
    _record(0, 6, 2, _A, "0/6"),
    _record(1, 6, 2, _C, "2/6"),
    _record(2, 6, 2, _A, "2/6"),
)


def test_lineage_runs_through_other_trials_back_to_epoch_0() -> None:
    assert [record.key for record in lineage(_RECORDS, "1/8")] == ["2/3", "2/6", "1/8"]
    assert [record.key for record in lineage(_RECORDS, "1/6")] == ["0/3", "1/6"]
    assert [record.key for record in lineage(_RECORDS, "0/8")] == ["0/3", "0/6", "0/8"]


def test_a_schedule_merges_equal_neighbours() -> None:
    assert schedule_of(lineage(_RECORDS, "1/8")) == PolicySchedule(
        segments=(Segment(epochs=6, policy=_A), Segment(epochs=2, policy=_C))
    )
    assert schedule_of(lineage(_RECORDS, "0/8")) == PolicySchedule(segments=(Segment(epochs=8, policy=_A),))


def test_equal_policies_apart_stay_apart() -> None:
    line = (_record(0, 0, 1, _A, None), _record(0, 1, 1, _B, "0/1"), _record(0, 2, 1, _A, "0/2"))
    assert [segment.epochs for segment in schedule_of(line).segments] == [1, 1, 1]


def test_cloned_from_names_the_other_trial_only() -> None:
    assert [record.cloned_from for record in _RECORDS] == [None, None, None, None, 0, None, None, 2, None]


def test_a_missing_parent_is_named() -> None:
    with pytest.raises(PolicySearchError, match=r"record '2/6': got none; the lineage of '1/8' needs it"):
        lineage([record for record in _RECORDS if record.key != "2/6"], "1/8")


def test_a_gap_is_named() -> None:
    records = [replace(record, start_epoch=5) if record.key == "1/8" else record for record in _RECORDS]
    with pytest.raises(PolicySearchError, match=r"record '1/8': starts at epoch 5; must start where .* '2/6' ends"):
        lineage(records, "1/8")


def test_a_first_record_starts_at_epoch_0() -> None:
    with pytest.raises(PolicySearchError, match=r"record '0/5': starts at epoch 3 without a parent"):
        lineage([_record(0, 3, 2, _A, None)], "0/5")


def test_last_records_go_by_time_not_by_epoch() -> None:
    # An asynchronous search may take a trial back to a slower one's weights.
    records = (_record(1, 0, 3, _A, None), _record(1, 3, 3, _A, "1/3"), _record(0, 0, 3, _A, None))
    again = replace(_record(1, 0, 3, _B, None), key="1/3b")
    assert last_records((*records, again)) == {0: records[2], 1: again}


def test_best_record_breaks_ties_by_chance_and_leaves_out_the_diverged() -> None:
    records = [
        replace(record, accuracy=accuracy, diverged=accuracy == 1)
        for record, accuracy in zip(_RECORDS, (0.1, 0.9, 0.2, 0.9, 1, 0.3, 0.3, 0.3, 0.3), strict=True)
    ]
    generator = np.random.default_rng(0)
    assert {best_record(records, generator).key for _ in range(50)} == {"1/3", "0/6"}


def test_best_record_of_none_is_refused() -> None:
    with pytest.raises(PolicySearchError, match=r"every one diverged"):
        best_record([replace(_RECORDS[0], diverged=True)], np.random.default_rng(0))


def test_records_survive_json() -> None:
    for record in _RECORDS:
        assert record_from_json(json.loads(json.dumps(record_to_json(record)))) == record

"""Policy schedules: each epoch of a run of any length has its policy."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.augment.policy import PolicyEntry, PolicySchedule, Segment

_HALF: Any = 0.5


def _schedule(*lengths: int) -> PolicySchedule:
    """Make a schedule whose segments are told apart by their op's name: its place."""
    return PolicySchedule(
        segments=tuple(
            Segment(epochs=length, policy=(PolicyEntry(op=str(place)),)) for place, length in enumerate(lengths)
        )
    )


def _ops(schedule: PolicySchedule, epochs: int) -> str:
    return "".join(schedule.policy_at(epoch, epochs)[0].op for epoch in range(epochs))


def test_a_schedule_is_stretched_and_shrunk_by_hand() -> None:
    schedule = _schedule(1, 3)
    assert schedule.epochs == 4
    assert _ops(schedule, 4) == "0111"
    assert _ops(schedule, 8) == "00111111"
    assert _ops(schedule, 2) == "01"
    # Epochs 0..5 lie at the schedule's 0, 0.67, 1.33, 2, 2.67, 3.33.
    assert _ops(schedule, 6) == "001111"
    assert _ops(schedule, 1) == "0"


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 60))
def test_segments_keep_their_order_and_their_share_within_an_epoch(lengths: list[int], epochs: int) -> None:
    schedule = _schedule(*lengths)
    ops = _ops(schedule, epochs)
    assert list(ops) == sorted(ops)
    for place, length in enumerate(lengths):
        assert abs(ops.count(str(place)) - length * epochs / schedule.epochs) < 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PolicyEntry(op="Rotate", probability=11), r"probability of 'Rotate': got 11; must lie in 0\.\.10"),
        (
            lambda: PolicyEntry(op="Rotate", probability=_HALF),
            r"probability of 'Rotate': got 0\.5; must lie in 0\.\.10 and be whole",
        ),
        (lambda: PolicyEntry(op="Rotate", magnitude=10), r"magnitude of 'Rotate': got 10; must lie in 0\.\.9"),
        (lambda: Segment(epochs=0, policy=()), "epochs: got 0; must be at least 1"),
        (lambda: PolicySchedule(segments=()), "segments: got none; must be at least one"),
        (lambda: _schedule(2).policy_at(3, 3), r"epoch: got 3; must lie in 0\.\.2"),
    ],
)
def test_what_makes_no_sense_is_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()

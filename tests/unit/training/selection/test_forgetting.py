"""Forgetting events by hand: right, then wrong at the next presentation."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.errors import SelectionError
from training.selection.forgetting import ForgettingMeter

IDS = np.array([30, 10, 20, 40], dtype=np.int64)


def observe(meter: ForgettingMeter, ids: list[int], correct: list[bool]) -> None:
    meter.observe(torch.tensor(ids), torch.zeros(len(ids)), torch.tensor(correct))


def test_events_by_hand_in_the_order_of_the_ids() -> None:
    meter = ForgettingMeter(IDS)
    histories = {10: [1, 0, 1, 0, 0], 20: [0, 1, 1, 1, 1], 30: [0, 0, 0, 0, 0], 40: [1, 1, 0, 1, 0]}
    for epoch in range(5):
        observe(meter, [20, 40], [bool(histories[20][epoch]), bool(histories[40][epoch])])
        observe(meter, [10, 30], [bool(histories[10][epoch]), bool(histories[30][epoch])])
    # 30 was never right; 10 was forgotten twice; 20 never; 40 twice.
    assert meter.scores().tolist() == [np.inf, 2, 0, 2]
    assert meter.scores().dtype == np.float32
    assert meter.num_never_presented == 0


def test_presentations_count_not_epochs() -> None:
    meter = ForgettingMeter(IDS)
    observe(meter, [10, 20], [True, True])
    observe(meter, [20], [True])
    observe(meter, [30, 40, 10], [True, True, False])
    # 10 missed an epoch between right and wrong: they are consecutive presentations all the same.
    assert meter.scores().tolist() == [0, 1, 0, 0]


def test_what_was_never_presented_gets_the_lower_median() -> None:
    meter = ForgettingMeter(np.arange(5, dtype=np.int64))
    for correct in ([True, True, False], [False, True, False], [True, True, False], [False, True, False]):
        observe(meter, [0, 1, 2], correct)
    assert meter.num_never_presented == 2
    assert meter.scores().tolist() == [2, 0, np.inf, 2, 2]


def test_nothing_observed_is_refused() -> None:
    with pytest.raises(SelectionError, match=r"^forgetting_events: got no trained batch; the training must call obs"):
        ForgettingMeter(IDS).scores()


def test_strangers_are_refused() -> None:
    meter = ForgettingMeter(IDS)
    observe(meter, [10, 99, 25], [True, True, False])
    with pytest.raises(SelectionError, match=r"^forgetting_events: got 2 rows with other ids than the 4$"):
        meter.scores()


@pytest.mark.parametrize("ids", [[], [1, 2, 1]])
def test_ids_must_be_unique(ids: list[int]) -> None:
    with pytest.raises(SelectionError, match=f"^ids: got {len(ids)}, {len(set(ids))} of them different; must be uni"):
        ForgettingMeter(np.array(ids, dtype=np.int64))


Steps = list[tuple[list[int], list[bool]]]


@st.composite
def _steps(draw: st.DrawFn) -> Steps:
    histories = draw(st.lists(st.dictionaries(st.integers(0, 5), st.booleans(), min_size=1), min_size=1, max_size=8))
    return [(list(history), list(history.values())) for history in histories]


@given(_steps())
@settings(max_examples=50)
def test_it_agrees_with_counting_by_hand(steps: Steps) -> None:
    meter = ForgettingMeter(np.arange(6, dtype=np.int64)[::-1].copy())
    histories: dict[int, list[bool]] = {number: [] for number in range(6)}
    for ids, correct in steps:
        observe(meter, ids, correct)
        for number, is_right in zip(ids, correct, strict=True):
            histories[number].append(is_right)
    expected = {
        number: sum(a and not b for a, b in pairwise(seen)) if any(seen) else np.inf
        for number, seen in histories.items()
        if seen
    }
    scores = meter.scores()[::-1]
    assert {number: scores[number] for number in expected} == expected
    middle = sorted(expected.values())[(len(expected) - 1) // 2]
    assert all(scores[number] == middle for number, seen in histories.items() if not seen)


@given(_steps(), _steps())
@settings(max_examples=30)
def test_a_resumed_meter_goes_on_as_if_it_had_not_stopped(before: Steps, after: Steps) -> None:
    ids = np.arange(6, dtype=np.int64)
    whole, first, second = (ForgettingMeter(ids) for _ in range(3))
    for step in before:
        observe(whole, *step)
        observe(first, *step)
    state = first.state_dict()
    snapshot = {name: value.clone() for name, value in state.items()}
    second.load_state_dict(state)
    for step in after:
        observe(whole, *step)
        observe(second, *step)
        observe(first, *step)
    assert second.scores().tolist() == first.scores().tolist() == whole.scores().tolist()
    # What was given away and taken up is a copy.
    assert all(torch.equal(value, state[name]) for name, value in snapshot.items())


def test_a_state_of_other_images_is_refused() -> None:
    state = ForgettingMeter(IDS).state_dict()
    message = r"^forgetting_events: state: is of other images than these; must have the same ids$"
    with pytest.raises(SelectionError, match=message):
        ForgettingMeter(IDS + 1).load_state_dict(state)
    with pytest.raises(SelectionError, match=message):
        ForgettingMeter(IDS).load_state_dict({"ids": state["ids"]})


@pytest.mark.gpu
def test_it_follows_the_batches_to_the_gpu() -> None:
    meter = ForgettingMeter(IDS)
    for correct in ([True, False], [False, False]):
        meter.observe(
            torch.tensor([10, 20], device="cuda"), torch.zeros(2, device="cuda"), torch.tensor(correct, device="cuda")
        )
    assert meter.scores()[1:3].tolist() == [1, np.inf]

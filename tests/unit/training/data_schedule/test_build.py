"""Counts worked out by hand, and which images an epoch sees: by chance or by score, fresh or fixed."""

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cascade_serve.core.arrays import FloatArray
from training.data_schedule.build import make_data_schedule
from training.data_schedule.config import (
    AllData,
    CutMode,
    DataCut,
    DataIncrement,
    DataScheduleConfig,
    DataStep,
    InfoBatch,
    data_step_grid,
    parse_data_schedule,
)
from training.data_schedule.spans import exact, round_half_up
from training.errors import DataError


def rows_of_epochs(
    config: DataScheduleConfig, num_images: int, epochs: int, scores_N: FloatArray | None = None, seed: int = 0
) -> list[list[int]]:
    schedule = make_data_schedule(config, num_images, epochs, scores_N)
    generator = torch.Generator().manual_seed(seed)
    return [schedule.plan_epoch(epoch, generator).rows_E.tolist() for epoch in range(epochs)]


def counts(text: str, num_images: int, epochs: int) -> tuple[int, ...]:
    return make_data_schedule(parse_data_schedule(text), num_images, epochs).planned_evaluations


def test_the_grid_trains_on_the_shares_of_the_source() -> None:
    shares = [
        sum(make_data_schedule(step, 1000, 20).planned_evaluations) / 20_000 for step in data_step_grid().values()
    ]
    assert shares == [0.8125, 0.625, 0.4375, 0.875, 0.75, 0.625, 0.9375, 0.875, 0.8125]


@pytest.mark.parametrize(
    ("text", "num_images", "epochs", "expected"),
    [
        ("none", 7, 3, (7, 7, 7)),
        ("step:0.5:0.5", 10, 4, (5, 5, 10, 10)),
        # Halves go up: 2.5 of 5 images are 3, and 1.5 of 3 epochs are 2.
        ("step:0.5:0.5", 5, 3, (3, 3, 5)),
        ("step:0.01:0.5", 10, 2, (1, 10)),
        # As it was typed, 0.145 of 100 is 14.5; the nearest float lies under it.
        ("step:0.145:0.5", 100, 2, (15, 100)),
        # 0.2 + 0.8 e / 4 of 10.
        ("increment:0.2", 10, 4, (4, 6, 8, 10)),
        # 0.5 + 0.5 e / 3 of 4: 2.67, 3.33, 4.
        ("increment:0.5", 4, 3, (3, 3, 4)),
        ("cut:3", 9, 6, (3, 3, 6, 6, 9, 9)),
        # Cuts of 3, 3, 4 images in sections of 2, 2, 1 epochs.
        ("cut:3", 10, 5, (3, 3, 6, 6, 10)),
        ("cut:3:rotate", 10, 4, (3, 3, 4, 3)),
        ("cut:3:leave_one_out", 10, 4, (7, 7, 6, 7)),
        ("cut:3:leave_one_out", 10, 2, (7, 7)),
        # The first epoch knows no losses, the last of 8 anneals; between, 1 - 0.5 / 2 of 10, halves up.
        ("infobatch", 10, 8, (10, 8, 8, 8, 8, 8, 8, 10)),
        ("infobatch:0.2:0", 10, 3, (10, 9, 9)),
    ],
)
def test_evaluations_by_hand(text: str, num_images: int, epochs: int, expected: tuple[int, ...]) -> None:
    assert counts(text, num_images, epochs) == expected


def test_mean_shares_are_the_formulas() -> None:
    assert sum(counts("cut:9", 900, 18)) == 900 * 18 * 10 // 18
    assert sum(counts("cut:9:rotate", 900, 18)) == 900 * 18 // 9
    assert sum(counts("cut:9:leave_one_out", 900, 18)) == 900 * 18 * 8 // 9
    # (1 + x) / 2 + (1 - x) / 2E with x = 0.25 and E = 16.
    assert sum(counts("increment:0.25", 1600, 16)) == 1600 * (16 * 0.625 + 0.375)


@pytest.mark.parametrize(
    "text", ["none", "step:0.3:0.5", "increment:0.2", "cut:3", "cut:3:rotate", "cut:3:leave_one_out"]
)
@pytest.mark.parametrize("options", ["", ":fixed"])
def test_epochs_have_as_many_different_rows_as_planned(text: str, options: str) -> None:
    config = parse_data_schedule(text if text == "none" else text + options)
    epochs = rows_of_epochs(config, 50, 7)
    assert tuple(map(len, epochs)) == make_data_schedule(config, 50, 7).planned_evaluations
    for rows in epochs:
        assert len(set(rows)) == len(rows)
        assert 0 <= min(rows) <= max(rows) < 50
    assert all(before != after for before, after in pairwise(epochs))


@pytest.mark.parametrize("text", ["step:0.5:0.9", "increment:0.1", "cut:2"])
def test_what_is_left_out_is_drawn_afresh_unless_fixed(text: str) -> None:
    fresh = [set(rows) for rows in rows_of_epochs(parse_data_schedule(text), 100, 4)]
    assert not fresh[0] <= fresh[1]
    fixed = [set(rows) for rows in rows_of_epochs(parse_data_schedule(text + ":fixed"), 100, 4)]
    assert fixed[0] <= fixed[1] <= fixed[2]


def test_each_image_has_the_same_chance() -> None:
    seen = np.zeros(20)
    for rows in rows_of_epochs(DataStep(fraction=0.25, share=0.99), 20, 1000):
        seen[rows] += 1
    # 990 epochs with a quarter and 10 with all, within five standard deviations.
    assert np.all(np.abs(seen - (990 * 0.25 + 10)) < 5 * np.sqrt(990 * 0.25 * 0.75))


@pytest.mark.parametrize("options", ["", ":fixed"])
def test_all_cuts_together_are_all_data(options: str) -> None:
    turns = [set(rows) for rows in rows_of_epochs(parse_data_schedule("cut:3:rotate" + options), 10, 6)]
    first, second = turns[:3], turns[3:]
    assert set.union(*first) == set.union(*second) == set(range(10))
    assert sum(map(len, first)) == sum(map(len, second)) == 10
    assert (first == second) is (options == ":fixed")
    left_out = [
        set(range(10)) - set(rows)
        for rows in rows_of_epochs(parse_data_schedule("cut:3:leave_one_out" + options), 10, 3)
    ]
    assert sum(map(len, left_out)) == len(set.union(*left_out)) == 10


def test_a_score_takes_the_place_of_chance() -> None:
    scores_N = np.array([0.1, 0.9, 0.5, 0.7, np.inf], dtype=np.float32)
    step = rows_of_epochs(DataStep(fraction=0.4, share=0.5, score="margin"), 5, 2, scores_N)
    assert [sorted(rows) for rows in step] == [[1, 4], [0, 1, 2, 3, 4]]
    increment = rows_of_epochs(DataIncrement(fraction=0.2, score="margin"), 5, 4, scores_N)
    assert [sorted(rows) for rows in increment] == [[1, 4], [1, 3, 4], [1, 2, 3, 4], [0, 1, 2, 3, 4]]
    cut = rows_of_epochs(DataCut(cuts=5, mode=CutMode.ROTATE, score="margin"), 5, 5, scores_N)
    assert cut == [[4], [1], [3], [2], [0]]


def test_scores_may_be_a_view_that_can_not_be_written() -> None:
    scores_N = np.arange(5, dtype=np.float32)[::-1]
    scores_N.flags.writeable = False
    rows = rows_of_epochs(DataStep(fraction=0.4, share=0.5, score="margin"), 5, 2, scores_N)
    assert sorted(rows[0]) == [0, 1]


def test_equal_scores_are_kept_by_chance() -> None:
    scores_N = np.array([1, 0, 0, 0, 0], dtype=np.float32)
    config = DataStep(fraction=0.4, share=0.99, score="margin")
    drawn = [tuple(sorted(rows)) for rows in rows_of_epochs(config, 5, 100, scores_N)[:99]]
    assert set(drawn) == {(0, 1), (0, 2), (0, 3), (0, 4)}


def test_the_same_seed_draws_the_same_rows() -> None:
    config = DataStep(fraction=0.5)
    assert rows_of_epochs(config, 30, 4, seed=1) == rows_of_epochs(config, 30, 4, seed=1)
    assert rows_of_epochs(config, 30, 4, seed=1) != rows_of_epochs(config, 30, 4, seed=2)


@pytest.mark.parametrize("text", ["step:0.5:0.9:fixed", "cut:3:rotate", "increment:0.5:fixed"])
def test_a_resumed_schedule_goes_on_with_its_order(text: str) -> None:
    straight = rows_of_epochs(parse_data_schedule(text), 20, 6)
    generator = torch.Generator().manual_seed(0)
    first = make_data_schedule(parse_data_schedule(text), 20, 6)
    assert [first.plan_epoch(epoch, generator).rows_E.tolist() for epoch in range(2)] == straight[:2]
    second = make_data_schedule(parse_data_schedule(text), 20, 6)
    second.load_state_dict(first.state_dict())
    assert [second.plan_epoch(epoch, generator).rows_E.tolist() for epoch in range(2, 6)] == straight[2:]


@pytest.mark.parametrize(
    ("config", "scores", "message"),
    [
        (DataStep(score="margin"), None, "scores: got none; must be one an image, of 'margin'"),
        (DataStep(), [1.0] * 4, "scores: got 4; must be absent, since the data schedule names no score"),
        (InfoBatch(), [1.0] * 4, "scores: got 4; must be absent, since the data schedule names no score"),
        (AllData(), [1.0] * 4, "scores: got 4; must be absent, since the data schedule names no score"),
        (DataStep(score="margin"), [1.0] * 3, "scores: got [3] with 0 NaN; must be [4], none"),
        (DataStep(score="margin"), [1.0, np.nan, 1, 1], "scores: got [4] with 1 NaN; must be [4], none"),
        (DataCut(cuts=5), None, "cuts: got 5; must be at most 4, the number of images"),
        (DataCut(cuts=4), None, "cuts: got 4; must be at most 3, the number of epochs"),
        (DataCut(cuts=4, mode=CutMode.ROTATE), None, "cuts: got 4; must be at most 3, the number of epochs"),
    ],
)
def test_what_does_not_fit(config: DataScheduleConfig, scores: list[float] | None, message: str) -> None:
    scores_N = None if scores is None else np.array(scores, dtype=np.float32)
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        make_data_schedule(config, 4, 3, scores_N)


def test_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match=r"got 0 images and 3 epochs; must be at least 1 of each$"):
        make_data_schedule(AllData(), 0, 3)


@given(st.integers(0, 10_000), st.integers(1, 100))
def test_rounding_is_to_the_nearest_halves_up(numerator: int, denominator: int) -> None:
    number = exact(numerator) / denominator
    assert -1 < 2 * (round_half_up(number) - number) <= 1
    assert round_half_up(exact(2.5)) == 3
    assert round_half_up(exact(3.5)) == 4


@given(
    st.integers(1, 200),
    st.integers(1, 40),
    st.floats(0.001, 0.999),
    st.floats(0.001, 0.999),
)
def test_any_step_and_increment_lies_between_one_image_and_all(
    num_images: int, epochs: int, fraction: float, share: float
) -> None:
    step = make_data_schedule(DataStep(fraction=fraction, share=share), num_images, epochs).planned_evaluations
    increment = make_data_schedule(DataIncrement(fraction=fraction), num_images, epochs).planned_evaluations
    for planned in (step, increment):
        assert len(planned) == epochs
        assert all(1 <= count <= num_images for count in planned)
        assert list(planned) == sorted(planned)
    assert increment[-1] == num_images

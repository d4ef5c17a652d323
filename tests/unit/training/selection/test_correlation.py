"""Rank correlation by hand and against scipy, and its picture."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from training.errors import SelectionError
from training.selection.correlation import RankCorrelation, correlate_ranks, draw_correlation


def of(*values: float) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    return np.array(values, dtype=np.float32)


def test_by_hand() -> None:
    # Ranks 1 2 3 4 5 and 2 1 4 3 5: 1 - 6 * 4 / (5 * 24).
    scores = {"a": of(1, 2, 3, 4, 5), "b": of(0.2, 0.1, 30, 4, 1000), "c": of(5, 4, 3, 2, 1)}
    found = correlate_ranks("margin", scores)
    assert (found.score, found.num_images, found.names) == ("margin", 5, ("a", "b", "c"))
    expected = [[1, 0.8, -1], [0.8, 1, -0.8], [-1, -0.8, 1]]
    for row, values in zip(found.matrix, expected, strict=True):
        assert row == pytest.approx(values)


def test_infinite_scores_share_the_highest_rank() -> None:
    # Ranks 1, 2, 3.5, 3.5 against 1, 2, 3, 4: by Pearson 4.5 / sqrt(4.5 * 5).
    found = correlate_ranks("forgetting_events", {"a": of(0, 7, np.inf, np.inf), "b": of(1, 2, 3, 4)})
    assert found.matrix[0][1] == pytest.approx(4.5 / np.sqrt(4.5 * 5))


def test_scores_that_are_all_the_same_have_no_ranking() -> None:
    found = correlate_ranks("entropy", {"flat": of(2, 2, 2), "a": of(1, 2, 3)})
    assert found.matrix[0] == (None, None)
    assert found.matrix[1][0] is None
    assert found.matrix[1][1] == pytest.approx(1)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=40))
def test_it_agrees_with_scipy(pairs: list[tuple[int, int]]) -> None:
    first, second = of(*(pair[0] for pair in pairs)), of(*(pair[1] for pair in pairs))
    found = correlate_ranks("x", {"a": first, "b": second}).matrix[0][1]
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-9)


def test_bad_scores_are_refused() -> None:
    with pytest.raises(
        SelectionError, match=r"^scores: got \[2, 3\] images of 2 models; must be one number, at least 2$"
    ):
        correlate_ranks("x", {"a": of(1, 2), "b": of(1, 2, 3)})
    with pytest.raises(SelectionError, match=r"^scores: got \[\] images of 0 models"):
        correlate_ranks("x", {})
    with pytest.raises(SelectionError, match=r"^scores: got \[1\] images of 1 models"):
        correlate_ranks("x", {"a": of(1)})
    with pytest.raises(SelectionError, match=r"^scores: of b: some are NaN; did the model diverge\?$"):
        correlate_ranks("x", {"a": of(1, 2), "b": of(1, np.nan)})


def test_the_heat_map_names_models_and_numbers() -> None:
    correlation = RankCorrelation(
        score="margin", num_images=45_000, names=("small", "flat", "big"),
        matrix=((1.0, None, 0.876), (None, None, None), (0.876, None, 1.0)),
    )  # fmt: skip
    figure = draw_correlation(correlation)
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == [
        "1.00",
        "none",
        "0.88",
        "none",
        "none",
        "none",
        "0.88",
        "none",
        "1.00",
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["small", "flat", "big"]
    assert axes.get_title() == "margin, 45,000 images"
    figure.savefig(io.BytesIO(), format="png")

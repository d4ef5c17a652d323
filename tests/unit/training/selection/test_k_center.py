"""Greedy k-center by hand, against a plain implementation, and in bounded memory."""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from torch.utils._python_dispatch import TorchDispatchMode

from cascade_serve.core.arrays import FloatArray, IntArray
from training.errors import SelectionError
from training.selection import k_center as module
from training.selection.k_center import k_center


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def line(*places: float) -> FloatArray:
    return np.array(places, dtype=np.float32)[:, None]


def test_the_farthest_comes_first_by_hand() -> None:
    # From 0: 10 is farthest; then 4 is 4 from 0 and 6 from 10; then 7 is 3 from both; then 1 is 1 from 0.
    picked = k_center(line(4, 1, 10, 7), 4, rng(), centres_CD=line(0))
    assert picked.tolist() == [2, 0, 3, 1]


def test_two_dimensions_by_hand() -> None:
    points = np.array([[0, 0], [3, 4], [6, 0], [3, 1]], dtype=np.float32)
    # From (0, 0): distances 5, 6, sqrt(10); then with (6, 0): min(5, 5) against sqrt(10).
    assert k_center(points[1:], 2, rng(), centres_CD=points[:1]).tolist() == [1, 0]


def test_ties_and_the_first_pick_are_left_to_chance() -> None:
    points = line(*([5.0] * 6))
    firsts = {int(k_center(points, 1, rng(seed))[0]) for seed in range(60)}
    tied = {int(k_center(points, 1, rng(seed), centres_CD=line(0))[0]) for seed in range(60)}
    assert firsts == tied == set(range(6))
    assert k_center(points, 4, rng(3)).tolist() == k_center(points, 4, rng(3)).tolist()


def plain(points: FloatArray, size: int, centres: FloatArray) -> list[float]:
    """Give the distance of each greedy pick, by the whole matrix in float64."""
    covered = list(centres.astype(np.float64))
    left = list(points.astype(np.float64))
    distances = []
    for _ in range(size):
        nearest = [min(float(np.linalg.norm(point - centre)) for centre in covered) for point in left]
        place = int(np.argmax(nearest))
        distances.append(nearest[place])
        covered.append(left.pop(place))
    return distances


def of_picks(points: FloatArray, picked: IntArray, centres: FloatArray) -> list[float]:
    covered = list(centres.astype(np.float64))
    distances = []
    for row in picked:
        distances.append(min(float(np.linalg.norm(points[row] - centre)) for centre in covered))
        covered.append(points[row].astype(np.float64))
    return distances


# Whole numbers are exact in float32, so that equal distances stay equal in both implementations.
_coordinates = st.integers(-20, 20).map(float)


@given(
    points=st_numpy.arrays(np.float32, st.tuples(st.integers(1, 12), st.just(3)), elements=_coordinates, unique=False),
    centres=st_numpy.arrays(np.float32, st.tuples(st.integers(1, 4), st.just(3)), elements=_coordinates),
    seed=st.integers(0, 9),
)
def test_picks_are_as_far_as_those_of_the_whole_matrix(points: FloatArray, centres: FloatArray, seed: int) -> None:
    # Without ties the picks are the same; with ties their distances may part later, so they are looked at step by step.
    size = len(points)
    picked = k_center(points, size, rng(seed), centres_CD=centres)
    assert sorted(picked.tolist()) == list(range(size))
    covered, left = list(centres.astype(np.float64)), set(range(size))
    for row in picked.tolist():
        nearest = {one: min(float(np.linalg.norm(points[one] - centre)) for centre in covered) for one in left}
        assert nearest[row] == pytest.approx(max(nearest.values()), abs=1e-2)
        covered.append(points[row].astype(np.float64))
        left.remove(row)


def test_random_points_agree_with_the_whole_matrix() -> None:
    points = rng(1).normal(size=(80, 5)).astype(np.float32) + 100
    centres = rng(2).normal(size=(7, 5)).astype(np.float32) + 100
    picked = k_center(points, 40, rng(), centres_CD=centres)
    assert of_picks(points, picked, centres) == pytest.approx(plain(points, 40, centres), rel=1e-4)


@pytest.mark.parametrize("exponent", [-140, -80, 60, 120])
def test_how_large_features_are_changes_nothing(exponent: int) -> None:
    # Whole numbers, which the smallest floats hold as exactly as the largest.
    points = rng(1).permutation(120).reshape(40, 3).astype(np.float32)
    centres = rng(2).integers(0, 120, (4, 3)).astype(np.float32)
    scaled = [np.ldexp(array, exponent).astype(np.float32) for array in (points, centres)]
    expected = k_center(points, 20, rng(), centres_CD=centres)
    assert k_center(scaled[0], 20, rng(), centres_CD=scaled[1]).tolist() == expected.tolist()
    assert len(set(k_center(scaled[0], 40, rng()).tolist())) == 40


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points = rng(1).normal(size=(50, 4)).astype(np.float32)
    centres = rng(2).normal(size=(11, 4)).astype(np.float32)
    whole = k_center(points, 20, rng(), centres_CD=centres)
    monkeypatch.setattr(module, "CHUNK_ROWS", 3)
    assert k_center(points, 20, rng(), centres_CD=centres).tolist() == whole.tolist()


class _Largest(TorchDispatchMode):
    """Notes the most elements of any tensor made."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.elements = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_no_tensor_outgrows_the_features_or_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_ROWS", 16)
    points = rng(1).normal(size=(600, 2)).astype(np.float32)
    with _Largest() as largest:
        k_center(points, 300, rng(), centres_CD=points[:200])
    assert largest.elements == points.size


def test_the_features_are_left_as_they_were() -> None:
    points = rng(1).normal(size=(20, 2)).astype(np.float32)
    before = points.copy()
    k_center(points, 5, rng(), centres_CD=points[:3])
    assert np.array_equal(points, before)


def test_bad_input_is_refused() -> None:
    with pytest.raises(SelectionError, match=r"^k_center: size: got 3; must be in 0\.\.2, the pool$"):
        k_center(line(1, 2), 3, rng())
    with pytest.raises(SelectionError, match=r"^k_center: features: 1 of 2 rows are not finite; did the proxy diverge"):
        k_center(line(1, np.nan), 1, rng())
    with pytest.raises(SelectionError, match=r"^k_center: centres: 1 of 1 rows are not finite; did the proxy diverge"):
        k_center(line(1, 2), 1, rng(), centres_CD=line(np.inf))


def test_nothing_may_be_asked_for() -> None:
    assert k_center(line(1, 2), 0, rng()).tolist() == []


@pytest.mark.gpu
def test_the_gpu_picks_the_same() -> None:
    points = rng(1).normal(size=(500, 8)).astype(np.float32)
    on_cpu = k_center(points, 100, rng(), centres_CD=points[:5])
    assert k_center(points, 100, rng(), centres_CD=points[:5], device="cuda").tolist() == on_cpu.tolist()

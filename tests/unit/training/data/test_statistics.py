"""Mean and spread of pixels, by hand and against numpy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from training.data import statistics
from training.data.digits import load_digits
from training.data.statistics import channel_statistics
from training.errors import DataError


def test_by_hand() -> None:
    # Red 0, 10: mean 5, deviation 5. Green 255, 0: mean and deviation 127.5. Blue 1, 2: mean 1.5, deviation 0.5.
    images_BHWC = np.array([[[[0, 255, 1]]], [[[10, 0, 2]]]], dtype=np.uint8)
    found = channel_statistics(images_BHWC)
    assert found.normalisation.mean == pytest.approx((5 / 255, 0.5, 1.5 / 255), abs=1e-15)
    assert found.normalisation.std == pytest.approx((5 / 255, 0.5, 0.5 / 255), abs=1e-15)
    # 127.5 and 1.5 are rounded to the even neighbour.
    assert found.fill == (5, 128, 2)


@given(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(2, 4), st.just(2))),
    st.integers(1, 40),
)
def test_same_as_numpy_whatever_the_chunks(images_BHWC: np.ndarray, chunk: int) -> None:
    images_BHWC[0, 0, :2] = [[0, 1], [2, 3]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "_CHUNK_VALUES", chunk)
        found = channel_statistics(images_BHWC)
    assert found.normalisation.mean == pytest.approx(images_BHWC.mean(axis=(0, 1, 2)) / 255, abs=1e-12)
    assert found.normalisation.std == pytest.approx(images_BHWC.std(axis=(0, 1, 2)) / 255, abs=1e-12)
    assert found == channel_statistics(images_BHWC[::-1])


def test_digits() -> None:
    # In scikit-learn's sixteenths mean and deviation are 4.8842 and 6.0168; stretching to 255 rounds them a little.
    found = channel_statistics(load_digits().images_BHWC)
    assert found.normalisation.mean == pytest.approx((4.8842 / 16,), abs=5e-4)
    assert found.normalisation.std == pytest.approx((6.0168 / 16,), abs=5e-4)
    assert found.fill == (78,)


def test_one_value_can_not_be_normalised() -> None:
    images_BHWC = np.zeros((2, 3, 3, 2), dtype=np.uint8)
    images_BHWC[0, 0, 0, 0] = 1
    images_BHWC[..., 1] = 7
    with pytest.raises(DataError, match=r"^channel 1: got 7 for all pixels; must vary to be normalised$"):
        channel_statistics(images_BHWC)


def test_no_pixels() -> None:
    with pytest.raises(DataError, match=r"^images: got \[0, 3, 3, 2\]; must hold at least one pixel$"):
        channel_statistics(np.zeros((0, 3, 3, 2), dtype=np.uint8))

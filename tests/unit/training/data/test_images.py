"""Digits, their splits and their folders."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training.data.digits import load_digits
from training.data.images import LabelledImages, write_image_folder
from training.data.splits import SplitConfig, split
from training.errors import DataError


def make_data(labels: list[int], classes: int = 3, channels: int = 1) -> LabelledImages:
    rows = len(labels)
    pixels = np.arange(rows * 4 * 5 * channels, dtype=np.int64) % 251
    return LabelledImages(
        images_BHWC=pixels.astype(np.uint8).reshape(rows, 4, 5, channels),
        labels_B=np.array(labels, dtype=np.int64),
        ids_B=np.arange(rows, dtype=np.int64),
        classes=tuple("äbc"[:classes]),
    )


def test_digits_are_real_and_use_the_whole_range() -> None:
    digits = load_digits()
    assert digits.images_BHWC.shape == (1797, 8, 8, 1)
    assert digits.images_BHWC.dtype == np.uint8
    assert (digits.images_BHWC.min(), digits.images_BHWC.max()) == (0, 255)
    assert digits.classes == tuple("0123456789")
    assert digits.labels_B[:10].tolist() == list(range(10))
    # The first image is a zero: row 0 reads 0 0 5 13 9 1 0 0 sixteenths.
    assert digits.images_BHWC[0, 0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]


def test_fingerprint_tells_pixels_labels_order_and_classes_apart() -> None:
    data = make_data([0, 1, 2, 0])
    same = make_data([0, 1, 2, 0])
    others = [
        make_data([0, 1, 2, 1]),
        make_data([0, 1, 2, 0, 0]),
        data.take(np.array([1, 0, 2, 3])),
        data.take(np.array([0, 1, 2])),
    ]
    assert data.sha256 == same.sha256
    assert len({data.sha256, *(other.sha256 for other in others)}) == 5


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_split_is_disjoint_whole_stratified_and_in_order(seed: int) -> None:
    digits = load_digits()
    parts = split(digits, SplitConfig(calibration=797, test=400, seed=seed))
    assert {name: len(part) for name, part in parts.items()} == {"train": 600, "calibration": 797, "test": 400}
    ids = np.concatenate([part.ids_B for part in parts.values()])
    assert sorted(ids.tolist()) == list(range(1797))
    for part in parts.values():
        assert np.all(np.diff(part.ids_B) > 0)
        assert np.array_equal(part.images_BHWC, digits.images_BHWC[part.ids_B])
        assert np.array_equal(part.labels_B, digits.labels_B[part.ids_B])
        expected_K = np.bincount(digits.labels_B) * len(part) / len(digits)
        assert np.all(np.abs(np.bincount(part.labels_B) - expected_K) <= 2)


def test_split_depends_on_its_seed_alone() -> None:
    digits = load_digits()
    first, again, other = (split(digits, SplitConfig(calibration=300, test=300, seed=seed)) for seed in (3, 3, 4))
    assert [part.sha256 for part in first.values()] == [part.sha256 for part in again.values()]
    assert first["test"].sha256 != other["test"].sha256


@given(
    labels=st.lists(st.integers(0, 2), min_size=3, max_size=60),
    shares=st.tuples(st.floats(0.05, 0.9), st.floats(0.05, 0.9)),
    seed=st.integers(0, 100),
)
def test_any_split_loses_and_doubles_nothing(labels: list[int], shares: tuple[float, float], seed: int) -> None:
    calibration = max(1, int(shares[0] * (len(labels) - 2)))
    test = max(1, int(shares[1] * (len(labels) - calibration - 1)))
    parts = split(make_data(labels), SplitConfig(calibration=calibration, test=test, seed=seed))
    assert (len(parts["calibration"]), len(parts["test"])) == (calibration, test)
    assert sorted(np.concatenate([part.ids_B for part in parts.values()]).tolist()) == list(range(len(labels)))


def test_split_leaves_something_to_train_on() -> None:
    with pytest.raises(DataError, match=r"^calibration \+ test: got 2 \+ 1; must sum to under 3, all rows$"):
        split(make_data([0, 1, 2]), SplitConfig(calibration=2, test=1))


@pytest.mark.parametrize("field", ["calibration", "test"])
def test_split_sizes_are_at_least_one(field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: got 0; must be at least 1$"):
        SplitConfig(**{"calibration": 1, "test": 1, field: 0})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: {"labels_B": data.labels_B[:-1]}, r"rows; must be equally many$"),
        (lambda data: {"images_BHWC": data.images_BHWC[..., 0]}, r"^images: got uint8 \[3, 4, 5\]; must be uint8"),
        (lambda data: {"images_BHWC": data.images_BHWC.astype(np.float32)}, r"^images: got float32 \[3, 4, 5, 1\]"),
        (lambda data: {"labels_B": data.labels_B + 1}, r"^labels: got 1\.\.3; must lie in 0\.\.2$"),
        (lambda data: {"labels_B": data.labels_B - 1}, r"^labels: got -1\.\.1; must lie in 0\.\.2$"),
    ],
)
def test_data_that_contradict_themselves(spoil: Callable[[LabelledImages], dict[str, object]], message: str) -> None:
    data = make_data([0, 1, 2])
    fields = {name: getattr(data, name) for name in ("images_BHWC", "labels_B", "ids_B", "classes")}
    with pytest.raises(DataError, match=message):
        LabelledImages(**{**fields, **spoil(data)})


@pytest.mark.parametrize("channels", [1, 3])
def test_folder_holds_every_image_without_loss(tmp_path: Path, channels: int) -> None:
    data = make_data([0, 2, 2, 1], channels=channels)
    write_image_folder(data, tmp_path / "images")
    files = sorted(path.relative_to(tmp_path / "images").as_posix() for path in tmp_path.rglob("*.png"))
    assert files == ["b/000003.png", "c/000001.png", "c/000002.png", "ä/000000.png"]
    with Image.open(tmp_path / "images" / "c" / "000002.png") as image:
        assert image.mode == ("L" if channels == 1 else "RGB")
        assert np.array_equal(np.asarray(image).reshape(4, 5, channels), data.images_BHWC[2])


def test_folder_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(b"")
    with pytest.raises(DataError, match=r"images.*: (Not a directory|File exists)$"):
        write_image_folder(make_data([0]), tmp_path / "images")

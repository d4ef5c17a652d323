"""Labelled images, digits and their folders."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from labelled_images import make_data
from PIL import Image

from training.data.digits import load_digits
from training.data.images import LabelledImages, write_image_folder
from training.errors import DataError


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


def test_rows_are_found_by_id_in_any_order() -> None:
    data = make_data([0, 1, 2, 0, 1]).take(np.array([4, 0, 3]))
    assert data.rows_of(np.array([3, 4])).tolist() == [2, 0]
    assert data.rows_of(np.array([], dtype=np.int64)).tolist() == []
    with pytest.raises(DataError, match=r"^ids: got 2 that these 3 images don't have, such as 1, 9$"):
        data.rows_of(np.array([0, 1, 9]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: {"labels_B": data.labels_B[:-1]}, r"rows; must be equally many$"),
        (lambda data: {"images_BHWC": data.images_BHWC[..., 0]}, r"^images: got uint8 \[3, 4, 5\]; must be uint8"),
        (lambda data: {"images_BHWC": data.images_BHWC.astype(np.float32)}, r"^images: got float32 \[3, 4, 5, 1\]"),
        (lambda data: {"labels_B": data.labels_B.astype(np.float64)}, r"^labels: got float64 \[3\]; must be int64 "),
        (lambda data: {"labels_B": data.labels_B[:, None]}, r"^labels: got int64 \[3, 1\]; must be int64 \[B\]$"),
        (lambda data: {"ids_B": data.ids_B.astype(np.int32)}, r"^ids: got int32 \[3\]; must be int64 \[B\]$"),
        (lambda _: {"classes": ("a", "b", "a")}, r"^classes: got \['a', 'b', 'a'\]; must be all different$"),
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


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "/etc", "a\0b"])
def test_class_that_names_no_folder_is_not_written(tmp_path: Path, name: str) -> None:
    data = replace(make_data([0, 1]), classes=("a", name))
    with pytest.raises(DataError, match=r"^classes: got '.*'; must be the name of a folder that is not hidden$"):
        write_image_folder(data, tmp_path / "images")
    assert list(tmp_path.iterdir()) == []


def test_images_without_a_file_format_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^images: got 2 channels; must be 1 \(grey\) or 3 \(RGB\)$"):
        write_image_folder(make_data([0], channels=2), tmp_path)

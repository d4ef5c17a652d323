"""Decoded data sets are kept, and read anew as soon as a file or a choice is another one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_folders import write_folder
from PIL import Image

from training.data.cache import load_cached
from training.data.data_set import DataSet
from training.data.digits import DigitsSource
from training.data.folder import FolderSource, OddSizes
from training.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_folder(tmp_path / "images" / "train", classes=2, per_class=3)
    write_folder(tmp_path / "images" / "val", classes=2, per_class=2)
    Image.new("L", (5, 5)).save(tmp_path / "images" / "train" / "class_0" / "odd.png")
    return tmp_path / "images"


def load(root: Path, *, odd_sizes: OddSizes = OddSizes.SKIP) -> tuple[DataSet, bool]:
    """Load, and tell whether files were read."""
    told: list[Any] = []
    source = FolderSource(odd_sizes=odd_sizes)
    data = load_cached(source, root, root.parent / "cache", progress=lambda *step: told.append(step))
    return data, bool(told)


@pytest.mark.parametrize("odd_sizes", [OddSizes.SKIP, OddSizes.RESIZE])
def test_kept_data_are_the_same(root: Path, odd_sizes: OddSizes) -> None:
    first, was_read = load(root, odd_sizes=odd_sizes)
    assert was_read
    again, was_read = load(root, odd_sizes=odd_sizes)
    assert not was_read
    assert again.sha256 == first.sha256 == FolderSource(odd_sizes=odd_sizes).load(root).sha256
    assert (again.skipped, again.resized) == (first.skipped, first.resized)
    assert len(first.skipped) + len(first.resized) == 1
    assert again.train.classes == first.train.classes


def test_part_that_is_not_there(root: Path) -> None:
    load(root / "val")
    data, was_read = load(root / "val")
    assert (data.test, was_read) == (None, False)


def _add(root: Path) -> None:
    Image.new("L", (8, 8)).save(root / "train" / "class_1" / "new.png")


def _touch(root: Path) -> None:
    os.utime(root / "train" / "class_1" / "0.png", ns=(1, 1))


def _rename(root: Path) -> None:
    (root / "train" / "class_1" / "0.png").rename(root / "train" / "class_1" / "9.png")


def _remove(root: Path) -> None:
    (root / "val" / "class_1" / "0.png").unlink()


@pytest.mark.parametrize("change", [_add, _touch, _rename, _remove])
def test_changed_files_are_read_anew(root: Path, change: Callable[[Path], None]) -> None:
    load(root)
    change(root)
    data, was_read = load(root)
    assert was_read
    assert data.sha256 == FolderSource(odd_sizes=OddSizes.SKIP).load(root).sha256
    # Only the newest is kept.
    assert len(list((root.parent / "cache").iterdir())) == 1


def test_other_choices_are_read_anew(root: Path) -> None:
    load(root)
    data, was_read = load(root, odd_sizes=OddSizes.RESIZE)
    assert was_read
    assert len(data.resized) == 1


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _change_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("damage", [_halve, _change_last_byte, lambda path: path.write_bytes(b"")])
def test_damaged_cache_is_made_anew(root: Path, damage: Callable[[Path], object]) -> None:
    first, _ = load(root)
    (path,) = (root.parent / "cache").iterdir()
    damage(path)
    again, was_read = load(root)
    assert was_read
    assert again.sha256 == first.sha256
    assert not load(root)[1]


def test_source_without_files_is_not_kept(tmp_path: Path) -> None:
    data = load_cached(DigitsSource(), None, tmp_path / "cache")
    assert len(data.train) == 1797
    assert not (tmp_path / "cache").exists()


def test_hidden_files_do_not_count(root: Path) -> None:
    load(root)
    (root / "train" / ".notes").write_text("x")
    assert not load(root)[1]


def test_what_can_not_be_read_or_written(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent/?: No such file or directory$"):
        load(root / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r": (Not a directory|File exists)$"):
        load_cached(FolderSource(odd_sizes=OddSizes.SKIP), root, tmp_path / "file")


def test_kept_arrays_may_be_given_to_torch(root: Path) -> None:
    load(root)
    data, _ = load(root)
    assert data.train.images_BHWC.dtype == np.uint8
    assert data.train.labels_B.dtype == np.int64
    assert data.train.images_BHWC.flags.c_contiguous

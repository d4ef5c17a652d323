"""What lies in a folder, by path, size and time of change."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from image_folders import write_folder

from training.data.file_list import files_sha256
from training.errors import DataError


def _change_time(root: Path) -> None:
    path = root / "class_0" / "0.png"
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))


@pytest.mark.parametrize(
    ("change", "is_seen"),
    [
        (_change_time, True),
        (lambda root: (root / "class_0" / "0.png").rename(root / "class_0" / "00.png"), True),
        (lambda root: (root / "class_0" / "0.png").unlink(), True),
        (lambda root: (root / "new.txt").write_text("x"), True),
        (lambda root: (root / "gone.png").symlink_to(root / "nowhere"), True),
        (lambda root: (root / ".hidden").write_text("x"), False),
        (lambda root: root.rename(root.with_name("moved")), False),
    ],
    ids=["time", "name", "removed", "added", "broken-link", "hidden", "moved"],
)
def test_changes_are_seen(tmp_path: Path, change: Callable[[Path], object], is_seen: bool) -> None:
    root = tmp_path / "images"
    write_folder(root, classes=2, per_class=2)
    before = files_sha256(root)
    assert files_sha256(root) == before
    change(root)
    assert (files_sha256(root if root.exists() else tmp_path / "moved") != before) is is_seen


def test_one_file_is_seen_by_its_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    path.write_bytes(b"1")
    before = files_sha256(path)
    path.write_bytes(b"12")
    assert files_sha256(path) != before


def test_folder_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: No such file or directory$"):
        files_sha256(tmp_path / "nowhere")

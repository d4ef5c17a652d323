"""Image folders and archives: what is found by looking, and what becomes of odd and broken files."""

import io
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from image_folders import write_folder
from PIL import Image

from model_zoo.image_folder import read_images, scan_image_folder
from training.data.data_set import DataSet, ResizedFile
from training.data.folder import CorruptFiles, FolderSource, OddSizes
from training.errors import DataError


def write_image(path: Path, *, height: int = 8, width: int = 8, grey: bool = True, value: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width) if grey else (height, width, 3)
    Image.fromarray(np.full(shape, value, dtype=np.uint8)).save(path)


def pack(folder: Path, archive: Path, *, prefix: str = "") -> Path:
    """Pack a folder in an order that is not the folder's."""
    mode = "w:gz" if archive.name.endswith("gz") else "w"
    with tarfile.open(archive, mode) as file:  # type: ignore[call-overload]
        for path in sorted(folder.rglob("*"), reverse=True):
            file.add(path, arcname=prefix + path.relative_to(folder).as_posix(), recursive=False)
    return archive


@pytest.mark.parametrize(("grey", "channels"), [(True, 1), (False, 3)])
def test_folder_is_found_by_looking(tmp_path: Path, grey: bool, channels: int) -> None:
    folder = write_folder(tmp_path / "images", classes=3, per_class=5, size=12, grey=grey)
    data = FolderSource().load(folder)
    assert data.train.images_BHWC.shape == (15, 12, 12, channels)
    assert data.train.classes == ("class_0", "class_1", "class_2")
    assert data.train.labels_B.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert data.train.ids_B.tolist() == list(range(15))
    assert (data.test, data.skipped, data.resized) == (None, (), ())


def test_pixels_are_those_of_the_zoo(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    generator = np.random.default_rng(0)
    for name in ("b/2.jpg", "b/10.jpeg", "a/x/1.JPG", "a/0.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 9, 3), dtype=np.uint8)).save(path)
    data = FolderSource().load(folder).train
    zoo = read_images(scan_image_folder(folder), height=16, width=9, channels=3)
    assert np.array_equal(data.images_BHWC, zoo.images_NHWC)
    assert np.array_equal(data.labels_B, zoo.labels_N)


@pytest.mark.parametrize("name", ["images.tar.gz", "images.tgz", "images.tar"])
@pytest.mark.parametrize("prefix", ["", "./", "birds/"])
def test_archive_is_read_as_the_folder_in_it(tmp_path: Path, name: str, prefix: str) -> None:
    folder = write_folder(tmp_path / "images", classes=3, per_class=4)
    write_image(folder / "class_1" / "sub" / "a.png")
    write_image(folder / "class_1" / "sub-a" / "a.png")
    write_image(folder / "class_1" / ".hidden.png")
    (folder / "class_1" / "notes.txt").write_text("no image")
    archive = pack(folder, tmp_path / name, prefix=prefix)
    assert FolderSource().load(archive).sha256 == FolderSource().load(folder).sha256


def two_parts(root: Path, test: str) -> Path:
    write_folder(root / "train", classes=2, per_class=4)
    write_folder(root / test, classes=2, per_class=3)
    return root


@pytest.mark.parametrize("test", ["test", "val"])
def test_train_and_test_parts(tmp_path: Path, test: str) -> None:
    data = FolderSource().load(two_parts(tmp_path / "birds", test))
    assert data.test is not None
    assert (len(data.train), len(data.test)) == (8, 6)
    assert data.test.ids_B.tolist() == list(range(8, 14))
    for name, prefix in (("a.tar.gz", ""), ("b.tgz", "birds/")):
        archive = pack(tmp_path / "birds", tmp_path / name, prefix=prefix)
        assert FolderSource().load(archive).sha256 == data.sha256
    (tmp_path / "archives").mkdir()
    pack(tmp_path / "birds" / "train", tmp_path / "archives" / "birds-train.tar.gz")
    pack(tmp_path / "birds" / test, tmp_path / "archives" / f"birds_{test}.tgz")
    (tmp_path / "archives" / "something-else").mkdir()
    assert FolderSource().load(tmp_path / "archives").sha256 == data.sha256


def test_val_is_left_alone_beside_test(tmp_path: Path) -> None:
    two_parts(tmp_path, "test")
    write_folder(tmp_path / "val", classes=2, per_class=1)
    data = FolderSource().load(tmp_path)
    assert data.test is not None
    assert len(data.test) == 6


def test_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("bus", "train"):
        write_image(tmp_path / name / "a.png")
    assert FolderSource().load(tmp_path).train.classes == ("bus", "train")


def test_parts_of_other_classes(tmp_path: Path) -> None:
    two_parts(tmp_path, "val")
    write_image(tmp_path / "val" / "zebra" / "a.png")
    with pytest.raises(DataError, match=r"/val: classes: must be those of .*/train; differ in zebra$"):
        FolderSource().load(tmp_path)


def test_two_archives_of_one_part(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images")
    (tmp_path / "archives").mkdir()
    for name in ("a-train.tar", "b-train.tar"):
        pack(folder, tmp_path / "archives" / name)
    with pytest.raises(DataError, match=r"archives: got a-train\.tar and b-train\.tar; must be one of them: give"):
        FolderSource().load(tmp_path / "archives")


# Odd sizes.


def odd_folder(root: Path) -> Path:
    write_folder(root, classes=2, per_class=4)
    write_image(root / "class_0" / "odd.png", height=4, width=6)
    write_image(root / "class_1" / "zodd.png", height=16, width=16)
    return root


def test_odd_sizes_are_named_and_refused(tmp_path: Path) -> None:
    message = (
        r"2 of 10 images have another size than 8x8 \[height x width\]: "
        r"class_0/odd\.png \(got 4x6 pixels; must be 8x8\), class_1/zodd\.png \(got 16x16 pixels; must be 8x8\); "
        r"resize or skip them by odd_sizes=resize or odd_sizes=skip$"
    )
    with pytest.raises(DataError, match=message):
        FolderSource().load(odd_folder(tmp_path))


def test_many_odd_files_are_counted(tmp_path: Path) -> None:
    write_folder(tmp_path, classes=2, per_class=10)
    for number in range(7):
        write_image(tmp_path / "class_0" / f"odd{number}.png", height=4)
    with pytest.raises(DataError, match=r"7 of 27 .*/odd4\.png \(.*\) and 2 more; resize or skip"):
        FolderSource().load(tmp_path)


def test_odd_sizes_are_skipped_and_listed(tmp_path: Path) -> None:
    data = FolderSource(odd_sizes=OddSizes.SKIP).load(odd_folder(tmp_path))
    assert [(file.path, file.reason) for file in data.skipped] == [
        ("class_0/odd.png", "got 4x6 pixels; must be 8x8"),
        ("class_1/zodd.png", "got 16x16 pixels; must be 8x8"),
    ]
    # Ids are places in the list of all files.
    assert data.train.ids_B.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]


def test_odd_sizes_are_resized_as_the_server_does_and_listed(tmp_path: Path) -> None:
    odd_folder(tmp_path)
    data = FolderSource(odd_sizes=OddSizes.RESIZE).load(tmp_path)
    zoo = read_images(scan_image_folder(tmp_path), height=8, width=8, channels=1)
    assert np.array_equal(data.train.images_BHWC, zoo.images_NHWC)
    assert data.resized == (
        ResizedFile(path="class_0/odd.png", height=4, width=6),
        ResizedFile(path="class_1/zodd.png", height=16, width=16),
    )
    assert data.skipped == ()


def test_size_may_be_given(tmp_path: Path) -> None:
    data = FolderSource(size=(4, 6), odd_sizes=OddSizes.RESIZE).load(odd_folder(tmp_path))
    assert data.train.images_BHWC.shape == (10, 4, 6, 1)
    assert len(data.resized) == 9


def test_one_coloured_image_makes_all_coloured(tmp_path: Path) -> None:
    write_folder(tmp_path, classes=2, per_class=2)
    write_image(tmp_path / "class_1" / "c.png", grey=False)
    assert FolderSource().load(tmp_path).train.images_BHWC.shape == (5, 8, 8, 3)


# Broken files.


def broken_folder(root: Path) -> Path:
    write_folder(root, classes=2, per_class=4)
    (root / "class_0" / "no.jpg").write_bytes(b"no image")
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)).save(stream, "JPEG")
    # The header is whole, the pixels are not.
    (root / "class_1" / "half.jpg").write_bytes(stream.getvalue()[:-10])
    return root


@pytest.mark.parametrize("archive", [False, True])
def test_broken_files_are_skipped_and_listed(tmp_path: Path, archive: bool) -> None:
    root = broken_folder(tmp_path / "images")
    data = FolderSource(corrupt=CorruptFiles.SKIP).load(pack(root, tmp_path / "a.tar") if archive else root)
    assert [file.path for file in data.skipped] == ["class_0/no.jpg", "class_1/half.jpg"]
    assert "must be JPEG or PNG" in data.skipped[0].reason
    assert "broken or truncated" in data.skipped[1].reason
    assert data.train.ids_B.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert data.train.labels_B.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_broken_files_are_named_and_refused(tmp_path: Path) -> None:
    root = broken_folder(tmp_path)
    with pytest.raises(DataError, match=r"1 of 10 files can't be decoded: class_0/no\.jpg \(.*\); mend or remove them"):
        FolderSource().load(root)
    (root / "class_0" / "no.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 9 files can't be decoded: class_1/half\.jpg \(JPEG .*=skip$"):
        FolderSource().load(root)


def test_file_that_may_not_be_read(tmp_path: Path) -> None:
    write_folder(tmp_path, classes=2, per_class=2)
    (tmp_path / "class_0" / "gone.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"class_0/gone\.png \(No such file or directory\)"):
        FolderSource().load(tmp_path)


def test_class_of_which_nothing_is_left(tmp_path: Path) -> None:
    write_folder(tmp_path, classes=2, per_class=2)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"class 'empty': got no image that is left; must be some$"):
        FolderSource(corrupt=CorruptFiles.SKIP).load(tmp_path)


def test_nothing_but_broken_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"got no image that can be decoded; must be at least one$"):
        FolderSource(corrupt=CorruptFiles.SKIP).load(tmp_path)


def _truncate(root: Path) -> Path:
    archive = pack(write_folder(root / "images"), root / "a.tar.gz")
    os.truncate(archive, archive.stat().st_size // 2)
    return archive


def _webp(root: Path) -> Path:
    write_image(root / "images" / "a" / "a.webp")
    return pack(root / "images", root / "a.tar")


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, r"^data: got no folder; must be one that holds <class>/<file>, or a tar archive of it$"),
        (lambda root: root / "absent", r"absent: No such file or directory; must be a folder or an archive"),
        (lambda root: _write(root / "a.txt", b""), r"a\.txt: Not a directory; must be a folder or an archive"),
        (lambda root: root, r"got no sub-folders; must hold one a class"),
        (lambda root: _write(root / "a.tar.gz", b"no archive"), r"a\.tar\.gz: broken or truncated archive: "),
        (_truncate, r"a\.tar\.gz: broken or truncated archive: "),
        (_webp, r"a\.tar: a/a\.webp: got \.webp; must be one of \.jpg, \.jpeg, \.png$"),
        (lambda root: pack(root, root / "a.tar"), r"a\.tar: got no images below \./; must hold <class>/<file>$"),
    ],
)
def test_what_is_no_image_folder(tmp_path: Path, prepare: Callable[[Path], Path | None], message: str) -> None:
    with pytest.raises(DataError, match=message):
        FolderSource().load(prepare(tmp_path))


def test_size_is_checked() -> None:
    with pytest.raises(ValueError, match=r"^size: got \(0, 8\); must be at least 1x1$"):
        FolderSource(size=(0, 8))


def test_progress_counts_headers_then_pixels(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    write_folder(tmp_path, classes=2, per_class=150)
    FolderSource().load(tmp_path, progress=lambda *step: told.append(step))
    assert [(what.split()[0], done, total) for what, done, total in told] == [
        ("headers", 256, 300),
        ("headers", 300, 300),
        ("pixels", 256, 300),
        ("pixels", 300, 300),
    ]


def test_large_images_are_decoded_side_by_side_to_the_same_pixels(tmp_path: Path) -> None:
    write_folder(tmp_path, classes=2, per_class=150, size=72)
    zoo = read_images(scan_image_folder(tmp_path), height=72, width=72, channels=1)
    assert np.array_equal(FolderSource().load(tmp_path).train.images_BHWC, zoo.images_NHWC)


def cifar() -> Path:
    folder = os.environ.get("CASCADE_SERVE_DATA")
    if folder is None or not (Path(folder) / "cifar10-jpeg-val.tar.gz").exists():
        pytest.skip("CASCADE_SERVE_DATA has no cifar10-jpeg-val.tar.gz")
    return Path(folder) / "cifar10-jpeg-val.tar.gz"


def test_real_images_from_an_archive() -> None:
    data: DataSet = FolderSource().load(cifar())
    assert data.train.images_BHWC.shape == (5000, 32, 32, 3)
    names: Sequence[str] = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    assert data.train.classes == tuple(names)
    assert np.bincount(data.train.labels_B).tolist() == [500] * 10


def test_class_of_an_archive_must_be_unicode(tmp_path: Path) -> None:
    write_folder(tmp_path / "images", classes=2, per_class=1)
    name = os.fsdecode(b"\xff")
    (tmp_path / "images" / "class_1").rename(tmp_path / "images" / name)
    for root in (tmp_path / "images", pack(tmp_path / "images", tmp_path / "a.tar")):
        with pytest.raises(DataError, match=r"must be valid unicode$"):
            FolderSource().load(root)

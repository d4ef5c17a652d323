"""SmallNORB's binary matrix files, of which the tests write small ones."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.smallnorb import BYTE_MAGIC, CLASSES, INT_MAGIC, SmallNorbSource
from training.errors import DataError

_LABELS = {"training": [0, 1, 2, 3, 4, 0], "testing": [4, 3]}
_TOYS = [4, 6, 7, 8, 9, 6]
_NAMES = {
    "training": "smallnorb-5x46789x9x18x6x2x96x96-training",
    "testing": "smallnorb-5x01235x9x18x6x2x96x96-testing",
}


def header(magic: int, sizes: list[int], order: str = "<") -> bytes:
    """Give a header as the data set's page describes it: at least three sizes, those beyond the dimensions are 1."""
    padded = sizes + [1] * (3 - len(sizes))
    return struct.pack(f"{order}Ii{len(padded)}i", magic, len(sizes), *padded)


def pairs(part: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    rows = len(_LABELS[part])
    return np.random.default_rng(rows).integers(0, 256, (rows, 2, 96, 96), dtype=np.uint8)


def write_files(root: Path, order: str = "<") -> Path:
    for part, labels in _LABELS.items():
        images = header(BYTE_MAGIC, [len(labels), 2, 96, 96], order) + pairs(part).tobytes()
        (root / f"{_NAMES[part]}-dat.mat").write_bytes(images)
        categories = header(INT_MAGIC, [len(labels)], order) + struct.pack(f"{order}{len(labels)}i", *labels)
        (root / f"{_NAMES[part]}-cat.mat").write_bytes(categories)
        facts = [number for toy in _TOYS[: len(labels)] for number in (toy, 3, 20, 5)]
        info = header(INT_MAGIC, [len(labels), 4], order) + struct.pack(f"{order}{len(facts)}i", *facts)
        (root / f"{_NAMES[part]}-info.mat").write_bytes(info)
    return root


def zip_files(root: Path) -> Path:
    for path in list(root.glob("*.mat")):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return root


def test_first_bytes_are_those_of_the_published_files(tmp_path: Path) -> None:
    write_files(tmp_path)
    start = (tmp_path / f"{_NAMES['training']}-dat.mat").read_bytes()[:24].hex(" ", 4)
    assert start == "554c3d1e 04000000 06000000 02000000 60000000 60000000"
    start = (tmp_path / f"{_NAMES['training']}-cat.mat").read_bytes()[:20].hex(" ", 4)
    assert start == "544c3d1e 01000000 06000000 01000000 01000000"


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("camera", "place"), [("left", 0), ("right", 1)])
def test_both_parts_are_read(tmp_path: Path, zipped: bool, order: str, camera: str, place: int) -> None:
    root = write_files(tmp_path, order)
    if zipped:
        zip_files(root)
    source = SmallNorbSource(camera="left") if camera == "left" else SmallNorbSource(camera="right")
    data = source.load(root)
    assert data.test is not None
    assert data.train.classes == CLASSES
    for part, images in (("training", data.train), ("testing", data.test)):
        assert images.labels_B.tolist() == _LABELS[part]
        assert np.array_equal(images.images_BHWC[..., 0], pairs(part)[:, place])
    assert data.train.ids_B.tolist() == [0, 1, 2, 3, 4, 5]
    assert data.test.ids_B.tolist() == [6, 7]


def test_images_of_a_toy_belong_together(tmp_path: Path) -> None:
    data = SmallNorbSource().load(write_files(tmp_path))
    assert data.groups_B is not None
    # Ten numbers a class: toy 4 of the animals, toy 6 of the humans, ...
    assert data.groups_B.tolist() == [4, 16, 27, 38, 49, 6]


def test_toys_may_be_left_to_chance_where_they_are_not_known(tmp_path: Path) -> None:
    root = write_files(tmp_path)
    (root / f"{_NAMES['training']}-info.mat").unlink()
    assert SmallNorbSource(toys_apart=False).load(root).groups_B is None
    with pytest.raises(DataError, match=r"got nothing that is called \*training\*-info\.mat; must be one file"):
        SmallNorbSource().load(root)


def test_images_are_made_smaller_as_the_server_does(tmp_path: Path) -> None:
    data = SmallNorbSource(size_px=48).load(write_files(tmp_path))
    assert data.train.images_BHWC.shape == (6, 48, 48, 1)
    expected = Image.fromarray(pairs("training")[2, 0]).resize((48, 48), Image.Resampling.BILINEAR)
    assert np.array_equal(data.train.images_BHWC[2, :, :, 0], np.asarray(expected))


def test_plain_file_is_taken_before_the_packed_one(tmp_path: Path) -> None:
    write_files(tmp_path)
    (tmp_path / f"{_NAMES['training']}-dat.mat.gz").write_bytes(b"not looked at")
    assert len(SmallNorbSource().load(tmp_path).train) == 6


def test_progress_counts_pairs(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    SmallNorbSource().load(write_files(tmp_path), progress=lambda _, done, total: told.append((done, total)))
    assert told == [(6, 6), (2, 2)]


def _replace(name: str, offset: int, data: bytes) -> Callable[[Path], object]:
    def spoil(root: Path) -> None:
        path = root / f"{_NAMES['training']}-{name}.mat"
        content = bytearray(path.read_bytes())
        content[offset : offset + len(data)] = data
        path.write_bytes(content)

    return spoil


def _cut(name: str, size: int) -> Callable[[Path], object]:
    def spoil(root: Path) -> None:
        path = root / f"{_NAMES['training']}-{name}.mat"
        path.write_bytes(path.read_bytes()[:size])

    return spoil


def _cut_packed(root: Path) -> None:
    zip_files(root)
    path = root / f"{_NAMES['training']}-dat.mat.gz"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            _replace("dat", 0, b"PNG!"),
            r"dat\.mat: offset 0: got magic bytes 50 4e 47 21; must be 0x1e3d4c55 or 0x1e3d4c54, least byte first$",
        ),
        (_replace("dat", 0, b"\x54"), r"dat\.mat: offset 0: got magic 0x1e3d4c54; must be 0x1e3d4c55$"),
        (_replace("cat", 0, b"\x55"), r"cat\.mat: offset 0: got magic 0x1e3d4c55; must be 0x1e3d4c54$"),
        (_replace("dat", 4, b"\x00"), r"dat\.mat: offset 4: got 0 dimensions; must lie in 1\.\.8$"),
        (_replace("dat", 4, b"\xff\xff\xff\xff"), r"dat\.mat: offset 4: got -1 dimensions; must lie in 1\.\.8$"),
        (_replace("dat", 12, b"\x00"), r"dat\.mat: offset 12: got size 0 of dimension 1; must be at least 1$"),
        (
            _replace("dat", 16, b"\x20"),
            r"dat\.mat: offset 8: got sizes \[6, 2, 32, 96\]; must be \[6, 2, 96, 96\]$",
        ),
        (_replace("dat", 8, b"\x07"), r"dat\.mat: offset 8: got sizes \[7, 2, 96, 96\]; must be \[6, 2, 96, 96\]$"),
        # The third label lies at 20 + 2 * 4.
        (_replace("cat", 28, b"\x05"), r"cat\.mat: offset 28: got label 5; must lie in 0\.\.4$"),
        (_replace("cat", 28, b"\xff" * 4), r"cat\.mat: offset 28: got label -1; must lie in 0\.\.4$"),
        (_replace("cat", 8, b"\xff\xff\xff\x7f"), r"cat\.mat: offset 44: got the end of the file; must hold 1000 more"),
        (_replace("cat", 44, b"\x07"), r"cat\.mat: offset 44: got byte 0x07; must be the end of the file$"),
        (_cut("dat", 24 + 1000), r"dat\.mat: offset 1024: got the end of the file; must hold 109592 more bytes$"),
        (_cut("cat", 2), r"cat\.mat: offset 2: got the end of the file; must hold 2 more bytes$"),
        # The second toy lies behind a header of 20 bytes and four numbers.
        (_replace("info", 36, b"\x0a"), r"info\.mat: offset 36: got toy 10; must lie in 0\.\.9$"),
        (_replace("info", 8, b"\x05"), r"info\.mat: offset 8: got sizes \[5, 4\]; must be \[6, 4\]$"),
        (_cut_packed, r"dat\.mat\.gz: can't be read: Compressed file ended before the end-of-stream marker"),
        (
            lambda root: (root / f"{_NAMES['testing']}-cat.mat").unlink(),
            r"got nothing that is called \*testing\*-cat\.mat; must be one file, as it is or with \.gz$",
        ),
        (
            lambda root: (root / "a-training-dat.mat").write_bytes(b""),
            r"got a-training-dat\.mat and smallnorb.*-training-dat\.mat that is called \*training\*-dat\.mat; must",
        ),
    ],
)
def test_damage_is_named_by_file_offset_and_value(
    tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(write_files(tmp_path))
    with pytest.raises(DataError, match=message):
        SmallNorbSource().load(tmp_path)


def test_folder_is_needed() -> None:
    with pytest.raises(DataError, match=r"^data: got no folder; must be one that holds smallnorb's"):
        SmallNorbSource().load(None)


def test_size_is_checked() -> None:
    with pytest.raises(ValueError, match=r"^size_px: got 97; must lie in 1\.\.96$"):
        SmallNorbSource(size_px=97)

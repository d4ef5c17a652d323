"""The smallNORB data set: photographs of 50 toys in 5 classes, as stereo pairs, in its own binary matrix files.

Source: LeCun, Huang and Bottou, "Learning Methods for Generic Object Recognition" (CVPR 2004); the files are described
on the data set's page: a header of 32-bit numbers (magic, dimensions, sizes), then the values, last dimension fastest.
"""
# Shapes: N pairs, 2 cameras, HW image, F numbers on a pair.

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

import numpy as np
from PIL import Image

from cascade_serve.core.arrays import ImageArray, IntArray
from training.data.data_set import DataSet, LoadProgress, number_images
from training.data.images import LabelledImages
from training.errors import DataError

CLASSES = ("animal", "human", "airplane", "truck", "car")
CAMERAS = ("left", "right")
SIDE_PX = 96
_TOYS = 10
"""Of a class, in both parts together."""
_INFO_COLUMNS = 4
"""Of the info file: toy, elevation, azimuth, lighting."""

BYTE_MAGIC = 0x1E3D4C55
INT_MAGIC = 0x1E3D4C54
_DTYPES = {BYTE_MAGIC: "u1", INT_MAGIC: "i4"}
_MIN_SIZES = 3
"""Sizes that a header has at least; those beyond the dimensions are 1."""
_MAX_DIMENSIONS = 8
_CHUNK = 256
"""Pairs read at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallNorbSource:
    """SmallNORB: 24,300 pairs to train on, and as many of other toys to test on.

    Attributes:
        camera: which picture of a pair.
        size_px: height and width of the images; under 96 they are made smaller (bilinear, antialiased), as the server
            would do with an encoded image.
        toys_apart: whether all images of a toy go into the same part when train is split, as those of the test part
            are of other toys, too; needs the ``-info.mat`` file of train. There are five toys a class.
    """

    kind: Literal["smallnorb"] = "smallnorb"
    camera: Literal["left", "right"] = "left"
    size_px: int = SIDE_PX
    toys_apart: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.size_px <= SIDE_PX:
            raise ValueError(f"size_px: got {self.size_px}; must lie in 1..{SIDE_PX}")

    def load(self, root: Path | None = None, *, progress: LoadProgress | None = None) -> DataSet:
        """Read both parts; memory holds the chosen images and little more.

        Args:
            root: the folder with ``smallnorb-*-training-dat.mat``, ``-cat.mat`` and ``-info.mat``, and the first two
                of ``testing``, as they are or with ``.gz``.
            progress: told how many pairs are read.

        Raises:
            DataError: a file is absent, ambiguous or damaged; the message names file, offset and value.
        """
        if root is None:
            raise DataError("data: got no folder; must be one that holds smallnorb's -dat.mat and -cat.mat files")
        train = self._read_part(root, "training", 0, progress)
        test = self._read_part(root, "testing", len(train), progress)
        toys_N = _read_toys(_find(root, "training", "info"), train.labels_B) if self.toys_apart else None
        return DataSet(train=train, test=test, groups_B=toys_N)

    def _read_part(self, root: Path, part: str, first_id: int, progress: LoadProgress | None) -> LabelledImages:
        labels_N = _read_numbers(_find(root, part, "cat"), limit=len(CLASSES), what="label")[:, 0]
        images_NHW = self._read_images(_find(root, part, "dat"), len(labels_N), progress)
        return number_images(images_NHW, labels_N, classes=CLASSES, first_id=first_id)

    def _read_images(self, path: Path, pairs: int, progress: LoadProgress | None) -> ImageArray:
        images_NHW = np.empty((pairs, self.size_px, self.size_px), dtype=np.uint8)
        with _open_matrix(path) as matrix:
            matrix.expect(BYTE_MAGIC, (pairs, len(CAMERAS), SIDE_PX, SIDE_PX))
            for start in range(0, pairs, _CHUNK):
                rows = min(_CHUNK, pairs - start)
                chunk_N2HW = matrix.read(rows).astype(np.uint8, copy=False)
                images_NHW[start : start + rows] = self._resize(chunk_N2HW[:, CAMERAS.index(self.camera)])
                if progress is not None:
                    progress(f"pairs of {path.name}", start + rows, pairs)
            matrix.expect_end()
        return images_NHW

    def _resize(self, images_NHW: ImageArray) -> ImageArray:
        if self.size_px == SIDE_PX:
            return images_NHW
        size = (self.size_px, self.size_px)
        return np.stack(
            [np.asarray(Image.fromarray(image_HW).resize(size, Image.Resampling.BILINEAR)) for image_HW in images_NHW]
        )


def _find(root: Path, part: str, content: str) -> Path:
    names = [f"*{part}*-{content}.mat", f"*{part}*-{content}.mat.gz"]
    found = sorted(path for name in names for path in root.glob(name))
    # The unpacked file stands first, and is the faster one.
    plain = {path.name.removesuffix(".gz") for path in found}
    if not found or len(plain) > 1:
        got = "nothing" if not found else " and ".join(sorted(plain))
        raise DataError(f"{root}: got {got} that is called {names[0]}; must be one file, as it is or with .gz")
    return found[0]


def _read_toys(path: Path, labels_N: IntArray) -> IntArray:
    """Number the toy of each pair; a class's toys are numbered from 0 in the file."""
    instances_N = _read_numbers(path, limit=_TOYS, what="toy", columns=_INFO_COLUMNS, rows=len(labels_N))[:, 0]
    return labels_N * _TOYS + instances_N


def _read_numbers(path: Path, *, limit: int, what: str, columns: int = 1, rows: int | None = None) -> IntArray:
    """Read a matrix of whole numbers, int64 [N, columns], of which the first column lies in 0..limit-1."""
    with _open_matrix(path) as matrix:
        count = matrix.sizes[0] if rows is None else rows
        matrix.expect(INT_MAGIC, (count,) if columns == 1 else (count, columns))
        start = matrix.offset
        # Piece by piece: a damaged count must not ask for all memory at once.
        parts = [matrix.read(min(_CHUNK, count - first)) for first in range(0, count, _CHUNK)]
        numbers_NF = np.concatenate(parts).astype(np.int64).reshape(count, columns)
        matrix.expect_end()
    wrong = np.flatnonzero((numbers_NF[:, 0] < 0) | (numbers_NF[:, 0] >= limit))
    if len(wrong):
        offset, value = start + 4 * columns * int(wrong[0]), numbers_NF[wrong[0], 0]
        raise DataError(f"{path}: offset {offset}: got {what} {value}; must lie in 0..{limit - 1}")
    return numbers_NF


class _Matrix:
    """A binary matrix file that is read from front to back."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self.offset = 0
        self.magic, self._order = self._read_magic()
        dimensions = self._read_number()
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise self._error(4, f"got {dimensions} dimensions; must lie in 1..{_MAX_DIMENSIONS}")
        sizes = [self._read_number() for _ in range(max(_MIN_SIZES, dimensions))]
        for number, size in enumerate(sizes[:dimensions]):
            if size < 1:
                raise self._error(8 + 4 * number, f"got size {size} of dimension {number}; must be at least 1")
        self.sizes = tuple(sizes[:dimensions])

    def expect(self, magic: int, sizes: tuple[int, ...]) -> None:
        """Refuse a file of another type or shape."""
        if self.magic != magic:
            raise self._error(0, f"got magic {self.magic:#010x}; must be {magic:#010x}")
        if self.sizes != sizes:
            raise self._error(8, f"got sizes {list(self.sizes)}; must be {list(sizes)}")

    def expect_end(self) -> None:
        """Refuse a file that goes on."""
        rest = self._file.read(1)
        if rest:
            raise self._error(self.offset, f"got byte {rest[0]:#04x}; must be the end of the file")

    def read(self, rows: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8] | np.dtype[np.int32]]:
        """Read some rows of the first dimension."""
        dtype = np.dtype(self._order + _DTYPES[self.magic])
        data = self._read_bytes(rows * math.prod(self.sizes[1:]) * dtype.itemsize)
        return np.frombuffer(data, dtype=dtype).reshape(rows, *self.sizes[1:])

    def _read_magic(self) -> tuple[int, str]:
        data = self._read_bytes(4)
        # The published files are little-endian; the order of the magic's bytes tells.
        for order in "<>":
            (magic,) = struct.unpack(f"{order}I", data)
            if magic in _DTYPES:
                return magic, order
        known = " or ".join(f"{magic:#010x}" for magic in _DTYPES)
        raise self._error(0, f"got magic bytes {data.hex(' ')}; must be {known}, least byte first")

    def _read_number(self) -> int:
        (number,) = struct.unpack(f"{self._order}i", self._read_bytes(4))
        return int(number)

    def _read_bytes(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise self._error(
                self.offset + len(data), f"got the end of the file; must hold {size - len(data)} more bytes"
            )
        self.offset += size
        return data

    def _error(self, offset: int, text: str) -> DataError:
        return DataError(f"{self._path}: offset {offset}: {text}")


@contextmanager
def _open_matrix(path: Path) -> Iterator[_Matrix]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield _Matrix(path, cast("BinaryIO", file))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: can't be read: {error}") from error

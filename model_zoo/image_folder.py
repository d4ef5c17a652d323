"""Labelled images on disk, ``<class>/<file>``: what ``zoo add`` calibrates on and ``evaluate`` sends."""
# Shapes: N images of the folder, B images of a batch, HWC image.

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model_zoo.errors import ImageError
from model_zoo.preprocess import decode_image, read_header

_SUFFIXES = (".jpg", ".jpeg", ".png")
_OTHER_SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".jp2", ".jxl", ".pgm", ".ppm", ".tif", ".tiff", ".webp")

Progress = Callable[[int], None]
"""Called with the number of images done since the last call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFolder:
    """The files of a folder, not yet read.

    Attributes:
        path: the folder.
        classes: names of its sub-folders, sorted.
        files: of all classes, in the order of the labels, then sorted.
        labels_N: int64 [N], index of each file's class.
    """

    path: Path
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderLayout:
    """The shape that a folder's images have in common.

    Attributes:
        size: height and width in pixels, where all images agree; None where they don't.
        channels: 1 where all images are grey, else 3.
    """

    size: tuple[int, int] | None
    channels: Literal[1, 3]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageBatch:
    """Some consecutive images of a folder, decoded.

    Attributes:
        images_BHWC: uint8 [B, H, W, C].
        digests: sha256 of each file's bytes.
    """

    images_BHWC: NDArray[np.uint8]
    digests: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderImages:
    """All images of a folder, decoded.

    Attributes:
        images_NHWC: uint8 [N, H, W, C].
        labels_N: int64 [N].
        sample_ids_N: int64 [N]; files with the same bytes have the same id, wherever they lie.
        sha256: fingerprint (hex) of class names, labels and files' bytes, in order.
    """

    images_NHWC: NDArray[np.uint8]
    labels_N: NDArray[np.int64]
    sample_ids_N: NDArray[np.int64]
    sha256: str


def scan_image_folder(path: Path) -> ImageFolder:
    """List a folder's images, ordered as torchvision's ``ImageFolder`` does; hidden files and folders are skipped.

    Raises:
        ImageError: the folder can't be read, holds no classes, a class holds no images, or there is an image of
            another format than JPEG and PNG.
    """
    try:
        classes = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error
    if not classes:
        raise ImageError(f"{path}: got no sub-folders; must hold one a class, with images in it: <class>/<file>")
    files_by_class = [_class_files(path / name) for name in classes]
    labels_N = np.repeat(np.arange(len(classes)), [len(files) for files in files_by_class]).astype(np.int64)
    files = tuple(file for files in files_by_class for file in files)
    return ImageFolder(path=path, classes=tuple(classes), files=files, labels_N=labels_N)


def _class_files(folder: Path) -> list[Path]:
    try:
        folder.name.encode()
    except UnicodeEncodeError as error:
        raise ImageError(f"{folder!r}: class names must be valid unicode") from error
    files = [file for root, names in _walk(folder) for name in names if _is_image(file := root / name)]
    if not files:
        raise ImageError(f"{folder}: got no images; must hold at least one JPEG or PNG file")
    return files


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    def refuse(error: OSError) -> None:
        raise ImageError(f"{error.filename}: {error.strerror}") from error

    found = []
    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found.append((root, names))
    for root, names in sorted(found):
        yield Path(root), sorted(names)


def _is_image(file: Path) -> bool:
    suffix = file.suffix.lower()
    if file.name.startswith("."):
        return False
    if suffix in _OTHER_SUFFIXES:
        raise ImageError(f"{file}: got {suffix}; must be one of {', '.join(_SUFFIXES)}")
    return suffix in _SUFFIXES


def draw_images(folder: ImageFolder, most: int, *, seed: int) -> ImageFolder:
    """Draw some of a folder's images at random, without replacement, in the folder's order.

    Args:
        folder: to draw from.
        most: how many, at most; all where there are no more.
        seed: of the draw.
    """
    drawn_B = np.random.default_rng(seed).permutation(len(folder))[:most]
    drawn_B.sort()
    return replace(folder, files=tuple(folder.files[row] for row in drawn_B), labels_N=folder.labels_N[drawn_B])


def inspect_layout(folder: ImageFolder, *, progress: Progress | None = None) -> FolderLayout:
    """Read all headers to find the size and channels that the images have in common.

    Raises:
        ImageError: a file can't be read; the message names it.
    """
    sizes: set[tuple[int, int]] = set()
    is_grey = True
    for file in folder.files:
        data = _read(file)
        try:
            header = read_header(data)
        except ImageError as error:
            raise ImageError(f"{file}: {error}") from error
        sizes.add((header.height, header.width))
        is_grey = is_grey and header.channels == 1
        if progress is not None:
            progress(1)
    return FolderLayout(size=sizes.pop() if len(sizes) == 1 else None, channels=1 if is_grey else 3)


def read_batches(
    folder: ImageFolder,
    *,
    height: int,
    width: int,
    channels: int,
    batch_size: int,
) -> Iterator[ImageBatch]:
    """Decode a folder's images batch by batch, so that a large folder needs little memory.

    Args:
        folder: what to read.
        height: pixels of the result.
        width: pixels of the result.
        channels: 1 (grey) or 3 (RGB).
        batch_size: images of a batch, at least 1; the last one may be smaller.

    Raises:
        ImageError: a file can't be read; the message names it.
    """
    for start in range(0, len(folder), batch_size):
        images, digests = [], []
        for file in folder.files[start : start + batch_size]:
            data = _read(file)
            try:
                images.append(decode_image(data, height=height, width=width, channels=channels))
            except ImageError as error:
                raise ImageError(f"{file}: {error}") from error
            digests.append(hashlib.sha256(data).digest())
        yield ImageBatch(images_BHWC=np.stack(images), digests=tuple(digests))


def read_images(
    folder: ImageFolder,
    *,
    height: int,
    width: int,
    channels: int,
    progress: Progress | None = None,
) -> FolderImages:
    """Decode all of a folder's images at once; see :func:`read_batches` for the arguments and errors."""
    images_NHWC = np.empty((len(folder), height, width, channels), dtype=np.uint8)
    digests: list[bytes] = []
    for batch in read_batches(folder, height=height, width=width, channels=channels, batch_size=64):
        images_NHWC[len(digests) : len(digests) + len(batch.digests)] = batch.images_BHWC
        digests.extend(batch.digests)
        if progress is not None:
            progress(len(batch.digests))
    return FolderImages(
        images_NHWC=images_NHWC,
        labels_N=folder.labels_N,
        sample_ids_N=sample_ids(digests),
        sha256=fingerprint(folder, digests),
    )


def sample_ids(digests: Sequence[bytes]) -> NDArray[np.int64]:
    """Turn files' sha256 digests into int64 ids [N]: their first eight bytes."""
    return np.array([int.from_bytes(digest[:8], "big", signed=True) for digest in digests], dtype=np.int64)


def fingerprint(folder: ImageFolder, digests: Sequence[bytes]) -> str:
    """Give the sha256 (hex) of class names, labels and files' digests, in order; paths don't matter."""
    whole = hashlib.sha256()
    for name in folder.classes:
        whole.update(hashlib.sha256(name.encode()).digest())
    for label, digest in zip(folder.labels_N, digests, strict=True):
        whole.update(int(label).to_bytes(8, "big") + digest)
    return whole.hexdigest()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ImageError(f"{file}: {error.strerror}") from error

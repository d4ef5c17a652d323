"""Encoded images of a folder or an archive: listed, ordered and labelled alike, and decoded side by side."""
# Shapes: N images, HWC image.

import os
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from cascade_serve.core.arrays import ImageArray, IntArray
from model_zoo.errors import ImageError
from model_zoo.image_folder import scan_image_folder
from model_zoo.preprocess import ImageHeader, decode_image, read_header
from training.data.data_set import LoadProgress, SkippedFile
from training.errors import DataError

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

_BATCH = 256
"""Images of one task: handing over one at a time costs more than decoding it."""
_SMALL_PIXELS = 64 * 64
"""Images up to this size are decoded in one thread: Pillow gives up the interpreter's lock so briefly then that several
threads only wait for each other (10,000 JPEGs of 32x32: 1.1 s in one thread, 1.8 s in two)."""
_MAX_THREADS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedImages:
    """JPEG and PNG files, not yet decoded.

    Attributes:
        name: of the folder or archive, for messages.
        classes: class names, sorted.
        paths: of each file, below the folder, in the order of the labels.
        labels_N: int64 [N], indices of ``classes``.
        read: gives a file's bytes by its place.
    """

    name: str
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels_N: IntArray
    read: Callable[[int], bytes]

    def __len__(self) -> int:
        return len(self.paths)


def images_of_folder(path: Path) -> EncodedImages:
    """List a folder's images, ``<class>/<file>``, ordered as torchvision's ``ImageFolder`` does.

    Raises:
        DataError: it can't be read, holds no images, or images of another format than JPEG and PNG.
    """
    try:
        folder = scan_image_folder(path)
    except ImageError as error:
        raise DataError(str(error)) from error
    return EncodedImages(
        name=str(path),
        classes=folder.classes,
        paths=tuple(file.relative_to(path).as_posix() for file in folder.files),
        labels_N=folder.labels_N,
        read=lambda place: folder.files[place].read_bytes(),
    )


def images_of_archive(path: Path, contents: Mapping[str, bytes], below: str) -> EncodedImages:
    """List an archive's images in the same order as those of the unpacked folder.

    Args:
        path: the archive, for messages.
        contents: of :func:`read_archive`.
        below: the folder in the archive that holds the classes, such as ``train/``; empty for the archive itself.

    Raises:
        DataError: no images are there, or the name of a class is no valid unicode.
    """
    names = [name for name in contents if name.startswith(below) and "/" in name.removeprefix(below)]
    if not names:
        raise DataError(f"{path}: got no images below {below or './'}; must hold <class>/<file>")
    # By class, then by sub-folder, then by name.
    by_path = {name.removeprefix(below): contents[name] for name in names}
    paths = tuple(sorted(by_path, key=lambda name: (name.split("/")[0], *os.path.split(name))))
    classes = tuple(sorted({name.split("/")[0] for name in paths}))
    for name in classes:
        # Such as the bytes of another encoding; the same holds for folders.
        if name != name.encode(errors="ignore").decode():
            raise DataError(f"{path}: class {name!r}: must be valid unicode")
    numbers = {name: label for label, name in enumerate(classes)}
    return EncodedImages(
        name=f"{path}:{below}" if below else str(path),
        classes=classes,
        paths=paths,
        labels_N=np.array([numbers[name.split("/")[0]] for name in paths], dtype=np.int64),
        read=lambda place: by_path[paths[place]],
    )


def is_archive(path: Path) -> bool:
    """Tell whether a path is a tar archive, by its name."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES) and path.is_file()


def read_archive(path: Path) -> Mapping[str, bytes]:
    """Read the images of a tar archive, still encoded, by their paths; hidden files and links are skipped.

    A compressed archive can only be read from front to back, so all of it is kept; nothing is unpacked to disk.

    Raises:
        DataError: it can't be read, or holds images of another format than JPEG and PNG.
    """
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if not member.isfile() or any(part.startswith(".") for part in name.parts) or not _is_image(path, name):
                    continue
                file = archive.extractfile(member)
                contents[name.as_posix()] = b"" if file is None else file.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{path}: broken or truncated archive: {error}") from error
    return contents


def _is_image(archive: Path, name: PurePosixPath) -> bool:
    suffix = name.suffix.lower()
    if suffix not in IMAGE_SUFFIXES and suffix in Image.registered_extensions():
        raise DataError(f"{archive}: {name}: got {suffix}; must be one of {', '.join(IMAGE_SUFFIXES)}")
    return suffix in IMAGE_SUFFIXES


def read_headers(
    images: EncodedImages, progress: LoadProgress | None = None
) -> tuple[list[ImageHeader | None], list[SkippedFile]]:
    """Read all headers: size and channels before anything is decoded.

    Returns:
        a header a file, None where it is broken; and the broken ones with the reason.
    """
    headers: list[ImageHeader | None] = []
    broken: list[SkippedFile] = []
    for place, path in enumerate(images.paths):
        try:
            headers.append(read_header(images.read(place)))
        except (ImageError, OSError) as error:
            headers.append(None)
            broken.append(SkippedFile(path=path, reason=_reason(error)))
        if progress is not None and ((place + 1) % _BATCH == 0 or place + 1 == len(images)):
            progress(f"headers of {images.name}", place + 1, len(images))
    return headers, broken


def decode_images(
    images: EncodedImages, places: Sequence[int], *, size: tuple[int, int, int], progress: LoadProgress | None = None
) -> tuple[ImageArray, list[int], list[SkippedFile]]:
    """Decode some of the images, to the very pixels that the server and the zoo's commands see.

    Args:
        images: where they are.
        places: which, in the order of the result.
        size: height, width and channels of the result; images of another size are resized.
        progress: told after each batch.

    Returns:
        uint8 [P, H, W, C] of those that could be decoded, their places, and the broken ones with the reason.

    Raises:
        DataError: there is no memory for the pixels.
    """
    height, width, channels = size
    try:
        pixels_NHWC = np.empty((len(places), height, width, channels), dtype=np.uint8)
    except MemoryError as error:
        raise DataError(f"{images.name}: {len(places)} images of {size}: {error}") from error

    def decode_batch(start: int) -> list[tuple[int, str]]:
        failures = []
        for row in range(start, min(start + _BATCH, len(places))):
            try:
                data = images.read(places[row])
                pixels_NHWC[row] = decode_image(data, height=height, width=width, channels=channels)
            except (ImageError, OSError) as error:
                failures.append((row, _reason(error)))
        return failures

    reasons: dict[int, str] = {}
    num_threads = 1 if height * width <= _SMALL_PIXELS else min(_MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(num_threads) as pool:
        for batch, failures in enumerate(pool.map(decode_batch, range(0, len(places), _BATCH))):
            reasons.update(failures)
            if progress is not None:
                progress(f"pixels of {images.name}", min((batch + 1) * _BATCH, len(places)), len(places))
    broken = [SkippedFile(path=images.paths[places[row]], reason=reason) for row, reason in reasons.items()]
    if not broken:
        return pixels_NHWC, list(places), []
    kept = [row for row in range(len(places)) if row not in reasons]
    return pixels_NHWC[kept], [places[row] for row in kept], broken


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)

"""What lies in a folder, told without reading it."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from training.errors import DataError


def files_sha256(root: Path) -> str:
    """Fingerprint (hex) all files below a folder, or one file, by path, size and time of change.

    Hidden files don't count; of a broken link, the link does. Paths count from ``root``, so the folder may be moved.
    50,000 files take about a second.

    Raises:
        DataError: it can't be read.
    """
    digest = hashlib.sha256()
    try:
        for name, size_bytes, time_ns in sorted(_files(root)):
            digest.update(f"{name}\0{size_bytes}\0{time_ns}\n".encode(errors="surrogateescape"))
    except OSError as error:
        raise DataError(f"{error.filename or root}: {error.strerror}") from error
    return digest.hexdigest()


def _files(root: Path) -> Iterator[tuple[str, int, int]]:
    if root.is_file():
        stat = root.stat()
        yield "", stat.st_size, stat.st_mtime_ns
        return
    folders = [""]
    while folders:
        folder = folders.pop()
        # Plain texts in place of paths: there may be a million files.
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(f"{folder}{entry.name}/")
                else:
                    stat = _stat(entry)
                    yield f"{folder}{entry.name}", stat.st_size, stat.st_mtime_ns


def _stat(entry: os.DirEntry[str]) -> os.stat_result:
    try:
        return entry.stat()
    except FileNotFoundError:
        # Whether a broken link is a fault is for the reader of the data to say.
        return entry.stat(follow_symlinks=False)

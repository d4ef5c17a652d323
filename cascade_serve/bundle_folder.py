"""The folder of bundles as it lies on disk, ``<root>/<cascade>/<version>/``: what is there, and what has changed."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cascade_serve.bundle import PLAN_FILE
from cascade_serve.errors import BundleError

Stamp = tuple[tuple[str, int, int, int], ...]
"""Of each file: path, bytes, and the times of its last writing and of its last change of any kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """What a look at the folder found.

    Attributes:
        versions: cascade → folders of its versions, at least one.
        unreadable: cascade → why its folder can't be read.
    """

    versions: Mapping[str, list[Path]]
    unreadable: Mapping[str, str]

    @property
    def newest(self) -> dict[str, Path]:
        """Cascade → folder of its newest version."""
        return {cascade: max(paths, key=lambda path: int(path.name)) for cascade, paths in self.versions.items()}


def scan(root: Path) -> Scan:
    """Look for cascades. Names that start with a dot, or that can't be printed, are passed over.

    Raises:
        BundleError: the folder can't be read, or holds no cascade.
    """
    versions: dict[str, list[Path]] = {}
    unreadable: dict[str, str] = {}
    for folder in _listed(root):
        try:
            versions[folder.name] = _versions(folder)
        except OSError as error:
            unreadable[folder.name] = f"{error.filename}: {error.strerror}"
    versions = {cascade: paths for cascade, paths in versions.items() if paths}
    if not versions:
        reasons = "".join(f"; {reason}" for reason in unreadable.values())
        raise BundleError(f"{root}: holds no cascade, that is no <cascade>/<version>/{PLAN_FILE}{reasons}")
    return Scan(versions=versions, unreadable=unreadable)


def _listed(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if not path.name.startswith(".") and path.name.isprintable())
    except OSError as error:
        raise BundleError(f"{root}: {error.strerror}") from error


def _versions(folder: Path) -> list[Path]:
    try:
        numbered = [path for path in folder.iterdir() if path.name.isascii() and path.name.isdigit()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path for path in numbered if (path / PLAN_FILE).exists()]


def stamp(version: Path) -> Stamp:
    """Give what differs once a file of a version is added, written, replaced or made readable."""
    files = []
    for file in sorted(version.rglob("*")):
        with suppress(OSError):
            status = file.stat()
            files.append((str(file), status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(files)

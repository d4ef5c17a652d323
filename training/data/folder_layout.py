"""Where the train and test parts of an image folder lie."""

from collections.abc import Collection, Mapping
from pathlib import Path

from training.data.encoded import (
    ARCHIVE_SUFFIXES,
    IMAGE_SUFFIXES,
    EncodedImages,
    images_of_archive,
    images_of_folder,
    is_archive,
    read_archive,
)
from training.errors import DataError

_TRAIN = "train"
_TESTS = ("test", "val")
_LOOKED_AT = 20
"""Folders that are looked at to tell whether images lie in them."""


def open_parts(root: Path) -> tuple[EncodedImages, ...]:
    """List the images of train, and of test where there is one.

    Understood are a folder of classes; one with ``train/`` and ``test/`` or ``val/``; a tar archive of either, with
    or without one folder around it; and a folder with archives whose names end in ``train`` and ``test`` or ``val``,
    such as ``birds-train.tar.gz``. Where there are ``test`` and ``val``, ``val`` is left alone.

    Raises:
        DataError: nothing is there, it can't be read, or it is ambiguous.
    """
    if is_archive(root):
        return _parts_of_archive(root)
    folders = _folders(root)
    archives = _archives(root)
    if _TRAIN in archives:
        paths = [archives[name] for name in _part_names(archives)]
        return tuple(images for path in paths for images in _parts_of_archive(path))
    if _are_parts(folders):
        return tuple(images_of_folder(root / name) for name in _part_names(folders))
    return (images_of_folder(root),)


def is_image_folder(root: Path) -> bool:
    """Tell whether :func:`open_parts` would find images there."""
    if is_archive(root) or (root.is_dir() and _TRAIN in _archives(root)):
        return True
    if not root.is_dir():
        return False
    top = root / _TRAIN if _are_parts(_folders(root)) else root
    return any(
        file.suffix.lower() in IMAGE_SUFFIXES for name in _folders(top)[:_LOOKED_AT] for file in (top / name).iterdir()
    )


def _folders(root: Path) -> list[str]:
    try:
        return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{root}: {error.strerror}; must be a folder or an archive (.tar, .tar.gz, .tgz)") from error


def _archives(root: Path) -> Mapping[str, Path]:
    """Find the archives of parts by the names of the parts."""
    found: dict[str, Path] = {}
    for path in sorted(root.iterdir()):
        part = _part_of_archive(path)
        if part in found:
            raise DataError(f"{root}: got {found[part].name} and {path.name}; must be one of them: give it as the data")
        if part:
            found[part] = path
    return found


def _part_of_archive(path: Path) -> str:
    if not is_archive(path):
        return ""
    name = path.name.lower()
    stem = name.removesuffix(next(suffix for suffix in ARCHIVE_SUFFIXES if name.endswith(suffix)))
    last = stem.replace("_", "-").rsplit("-", maxsplit=1)[-1]
    return last if last in (_TRAIN, *_TESTS) else ""


def _are_parts(folders: Collection[str]) -> bool:
    """Tell parts from classes, one of which may well be called train."""
    return _TRAIN in folders and set(folders) <= {_TRAIN, *_TESTS}


def _part_names(found: Collection[str]) -> list[str]:
    test = next((name for name in _TESTS if name in found), None)
    return [_TRAIN] if test is None else [_TRAIN, test]


def _parts_of_archive(path: Path) -> tuple[EncodedImages, ...]:
    contents = read_archive(path)
    top = _common_folder(contents)
    folders = {name.removeprefix(top).split("/")[0] for name in contents}
    belows = [f"{top}{name}/" for name in _part_names(folders)] if _are_parts(folders) else [top]
    return tuple(images_of_archive(path, contents, below) for below in belows)


def _common_folder(names: Collection[str]) -> str:
    """Give the one folder that everything lies in, where the folders in it could be classes: ``birds/`` or nothing."""
    heads = {name.split("/")[0] for name in names}
    is_deep = all(name.count("/") >= 2 for name in names)
    return f"{heads.pop()}/" if len(heads) == 1 and is_deep else ""

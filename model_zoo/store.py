"""The zoo on disk: ``zoo/<task>/{task.json, <member>/...}``, written whole or not at all and verified when read."""
# Shapes: N rows, K classes.

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from model_zoo.card import Card, TaskCard
from model_zoo.errors import CardError, ConflictError

TASK_FILE = "task.json"
CARD_FILE = "card.json"
GRAPH_FILE = "model.onnx"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
CALIBRATION_FILE = "calibration.safetensors"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ZooMember:
    """One member on disk.

    Attributes:
        name: that of its folder.
        path: its folder.
        card: what is known about it.
    """

    name: str
    path: Path
    card: Card

    @property
    def graph_path(self) -> Path:
        """Its ONNX file."""
        return self.path / GRAPH_FILE


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationData:
    """What a member said about the calibration images.

    Attributes:
        logits_NK: float32 [N, K], as the engine on its card computed them; may hold NaN.
        labels_N: int64 [N], the true classes, in [0, K).
        sample_ids_N: int64 [N]; files with the same bytes have the same id.
    """

    logits_NK: NDArray[np.float32]
    labels_N: NDArray[np.int64]
    sample_ids_N: NDArray[np.int64]

    def __post_init__(self) -> None:
        rows = self.labels_N.shape
        fits = self.logits_NK.ndim == 2 and len(rows) == 1 and rows[0] > 0
        if not fits or self.logits_NK.shape[:1] != rows or self.sample_ids_N.shape != rows:
            raise CardError(
                f"calibration: got logits {self.logits_NK.shape}, labels {rows}, sample ids {self.sample_ids_N.shape};"
                " must be [N, K], [N], [N] with N at least 1"
            )
        classes = self.logits_NK.shape[1]
        if self.labels_N.min() < 0 or self.labels_N.max() >= classes:
            raise CardError(
                f"calibration labels: got {self.labels_N.min()} to {self.labels_N.max()};"
                f" must be from 0 to {classes - 1}"
            )


def check_name(kind: str, name: str) -> str:
    """Give the name back if it may stand in a path, a list with commas and a stage ``NAME:THRESHOLD``.

    Args:
        kind: what is named, such as "member", for the message.
        name: the name.

    Raises:
        CardError: it may not.
    """
    if _NAME.fullmatch(name) is None:
        raise CardError(
            f"{kind} name: got {name!r}; must be 1 to 100 letters (a-z), digits, '_', '-' or '.',"
            " starting with a letter or digit"
        )
    return name


def list_tasks(zoo: Path) -> tuple[str, ...]:
    """Name the tasks of a zoo, sorted.

    Raises:
        CardError: the zoo's folder can't be read.
    """
    return _folders_with(zoo, TASK_FILE)


def list_members(task_path: Path) -> tuple[str, ...]:
    """Name the members of the task at ``zoo/<task>``, sorted; half-written ones don't show.

    Raises:
        CardError: the task's folder can't be read.
    """
    return _folders_with(task_path, CARD_FILE)


def _folders_with(folder: Path, file: str) -> tuple[str, ...]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise CardError(f"{folder}: {error.strerror}") from error
    return tuple(entry.name for entry in entries if _NAME.fullmatch(entry.name) and (entry / file).is_file())


def read_task(task_path: Path) -> TaskCard:
    """Read what all members of the task at ``zoo/<task>`` share.

    Raises:
        CardError: task.json is missing or broken.
    """
    file = task_path / TASK_FILE
    try:
        return TaskCard.model_validate_json(_read_bytes(file))
    except ValidationError as error:
        raise CardError(f"{file}: {error}") from error


def bind_task(task_path: Path, task: TaskCard) -> None:
    """Write task.json if there is none; otherwise check that it says the same.

    Args:
        task_path: ``zoo/<task>``; made if absent.
        task: what the new member was made for.

    Raises:
        ConflictError: the task on disk differs; the message names the field and both values.
        CardError: the folder can't be written, or its task.json is broken.
    """
    check_name("task", task_path.name)
    file = task_path / TASK_FILE
    partial = _aside(file, "partial")
    try:
        task_path.mkdir(parents=True, exist_ok=True)
        partial.write_text(task.model_dump_json(indent=2) + "\n", encoding="utf-8")
        # A link appears whole and refuses to replace: of two first members one wins, and the other is checked.
        os.link(partial, file)
    except FileExistsError:
        check_task(read_task(task_path), task, file)
    except OSError as error:
        raise CardError(f"{file}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def check_task(bound: TaskCard, task: TaskCard, source: Path) -> None:
    """Compare a member's task with the one that binds it.

    Args:
        bound: what the zoo says.
        task: what the member was made for.
        source: where ``bound`` was read, for the message.

    Raises:
        ConflictError: they differ.
    """
    for field in TaskCard.model_fields:
        ours, theirs = getattr(task, field), getattr(bound, field)
        if ours != theirs:
            raise ConflictError(f"{source}: {field}: got {_brief(ours, theirs)}; must be {_brief(theirs, ours)}")


def _brief(value: object, other: object) -> str:
    """Show a value; of long tuples only the first entry that differs."""
    if not isinstance(value, tuple) or not isinstance(other, tuple) or len(value) <= 10:
        return str(value)
    differing = (index for index, pair in enumerate(zip(value, other, strict=False)) if pair[0] != pair[1])
    index = next(differing, min(len(value), len(other)))
    return f"{len(value)} names, number {index} of them {value[index : index + 1]}"


def read_member(path: Path, *, verify: bool = True) -> ZooMember:
    """Read one member.

    Args:
        path: ``zoo/<task>/<member>``.
        verify: compare the sha256 of every file that the card names.

    Raises:
        CardError: a file is missing or broken or not what the card says, or the card is of another member.
    """
    card = Card.from_json(_read_bytes(path / CARD_FILE), str(path / CARD_FILE))
    if card.name != path.absolute().name:
        raise CardError(f"{path}: name: got {card.name!r} in {CARD_FILE}; must be that of the folder")
    if GRAPH_FILE not in card.files:
        raise CardError(f"{path}: files: got {sorted(card.files)}; must hold {GRAPH_FILE}")
    if verify:
        _verify_files(path, card)
    return ZooMember(name=card.name, path=path, card=card)


def _verify_files(folder: Path, card: Card) -> None:
    for relative, expected in card.files.items():
        file = folder / relative
        if not file.resolve().is_relative_to(folder.resolve()):
            raise CardError(f"{file}: lies outside {folder}")
        actual = _sha256(file)
        if actual != expected:
            raise CardError(f"{file}: sha256: got {actual}; must be {expected}")


def read_calibration(member: ZooMember) -> CalibrationData:
    """Read what a member said about its calibration images.

    Raises:
        CardError: there are none, or their shapes or types are wrong.
    """
    file = member.path / CALIBRATION_FILE
    if CALIBRATION_FILE not in member.card.files:
        raise CardError(f"{member.path}: files: got {sorted(member.card.files)}; must hold {CALIBRATION_FILE}")
    try:
        arrays = load_file(file)
    except OSError as error:
        raise CardError(f"{file}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise CardError(f"{file}: {error}") from error
    wanted = {"logits": "float32", "labels": "int64", "sample_ids": "int64"}
    for name, dtype in wanted.items():
        if name not in arrays or arrays[name].dtype.name != dtype:
            raise CardError(f"{file}: {name}: got {arrays[name].dtype if name in arrays else None}; must be {dtype}")
    try:
        data = CalibrationData(logits_NK=arrays["logits"], labels_N=arrays["labels"], sample_ids_N=arrays["sample_ids"])
    except CardError as error:
        raise CardError(f"{file}: {error}") from error
    classes = len(member.card.task.classes)
    if data.logits_NK.shape[1] != classes:
        raise CardError(f"{file}: logits: got {data.logits_NK.shape[1]} classes; must be {classes}")
    return data


def write_calibration(folder: Path, data: CalibrationData) -> None:
    """Write calibration.safetensors into a member's folder."""
    arrays = {"logits": data.logits_NK, "labels": data.labels_N, "sample_ids": data.sample_ids_N}
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / CALIBRATION_FILE)


def write_card(folder: Path, card: Card) -> Card:
    """Write card.json into a member's folder, with the sha256 of every other file there; call last.

    Returns:
        the card with its ``files``.
    """
    files = {
        file.relative_to(folder).as_posix(): _sha256(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != folder / CARD_FILE
    }
    card = card.model_copy(update={"files": files})
    (folder / CARD_FILE).write_text(card.to_json(), encoding="utf-8")
    return card


def replace_card(member: ZooMember, card: Card) -> ZooMember:
    """Replace a member's card at once; its other files stay as they are, as does the copy inside its graph.

    Args:
        member: as it was read.
        card: the new one; names the same files.

    Raises:
        ConflictError: the member was changed since it was read.
        CardError: the card can't be written.
    """
    file = member.path / CARD_FILE
    if read_member(member.path, verify=False).card != member.card:
        raise ConflictError(f"{file}: was changed by someone else meanwhile; try again")
    partial = _aside(file, "partial")
    card = card.model_copy(update={"files": member.card.files})
    try:
        partial.write_text(card.to_json(), encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        raise CardError(f"{file}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    return ZooMember(name=member.name, path=member.path, card=card)


@contextmanager
def new_member(task_path: Path, name: str, *, overwrite: bool = False) -> Iterator[Path]:
    """Give an empty folder to fill, which becomes the member when the block ends, and vanishes when it fails.

    Args:
        task_path: ``zoo/<task>``.
        name: the member's.
        overwrite: replace a member of that name.

    Raises:
        ConflictError: the member exists and may not be replaced.
        CardError: the name is not allowed, the block wrote no card, or the folder can't be written.
    """
    target = task_path / check_name("member", name)
    check_free(target, overwrite=overwrite)
    partial = _aside(target, "partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        if not (partial / CARD_FILE).is_file():
            raise CardError(f"{target}: got no {CARD_FILE}; must be written last")
        _move(partial, target, overwrite=overwrite)
    except OSError as error:
        raise CardError(f"{error.filename or target}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise CardError(f"{target}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(target: Path, *, overwrite: bool) -> None:
    """Refuse a member's path that is taken, unless it may be replaced, or that can't be written.

    Raises:
        ConflictError: it is taken.
        CardError: it is not writable.
    """
    if target.exists() and not overwrite:
        raise ConflictError(f"{target}: exists already; choose another name, or --overwrite")
    nearest = next(folder for folder in target.parents if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise CardError(f"{target}: can't be written: {nearest} is not a writable folder")


def _move(partial: Path, target: Path, *, overwrite: bool) -> None:
    check_free(target, overwrite=overwrite)
    if not target.exists():
        partial.rename(target)
        return
    old = _aside(target, "old")
    target.rename(old)
    partial.rename(target)
    shutil.rmtree(old)


def _aside(path: Path, kind: str) -> Path:
    """Name a hidden neighbour that no other writer uses: process ids repeat among threads and containers."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{kind}")


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CardError(f"{file}: {error.strerror}") from error


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CardError(f"{file}: {error.strerror}") from error

"""Selection's results as JSON files: whole or not there, and checked when they are read."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from training.errors import SelectionError
from training.files import write_whole

_Record = TypeVar("_Record")


def write_record(record: Any, path: Path, *, indent: int | None = 2) -> None:
    """Write a dataclass of plain values as JSON.

    Args:
        record: the dataclass.
        path: an existing file is replaced; its folder is made where it is absent.
        indent: spaces a level; None writes one line.

    Raises:
        SelectionError: the file can't be written.
    """
    data = TypeAdapter(type(record)).dump_json(record, indent=indent)
    try:
        write_whole(path, data + b"\n")
    except OSError as error:
        raise SelectionError(f"{error.filename or path}: {error.strerror}") from error


def read_record(kind: type[_Record], path: Path) -> _Record:
    """Read such a file back.

    Args:
        kind: the dataclass that it holds.
        path: of the file.

    Raises:
        SelectionError: the file can't be read, or does not hold one; the message names file and field.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except OSError as error:
        raise SelectionError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "file"
        raise SelectionError(f"{path}: {field}: {first['msg']}") from error

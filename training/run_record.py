"""The record of a finished stage: what it read, how it was set, what it wrote and what that took."""

import hashlib
import json
import platform
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from training.errors import RunDirError
from training.files import file_sha256, write_whole

RECORD_FILE = "done.json"
_PACKAGES = ("cascade-serve", "numpy", "pillow", "ray", "scikit-learn", "timm", "torch", "torchvision")


class InputRecord(BaseModel):
    """One thing that a stage read.

    Attributes:
        sha256: of the file, or of the outputs of a whole stage.
        stage: the stage of the same run that made it; None where it came from outside.
        path: the file: below the stage's folder where a stage made it; None for a whole stage, and for a fingerprint.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    stage: str | None = None
    path: str | None = None

    def is_same(self, other: "InputRecord") -> bool:
        """Tell whether both stand for the same content; where a file from outside lies doesn't matter."""
        ours, theirs = ((one.sha256, one.stage, one.stage and one.path) for one in (self, other))
        return ours == theirs


class StageRecord(BaseModel):
    """What is written beside a stage's outputs, as ``done.json``.

    Attributes:
        stage: its name.
        config: its settings, as a JSON value.
        config_sha256: of them.
        inputs: by name.
        outputs: sha256 by path below the stage's folder.
        result: what the stage tells of itself for reports and cards; no other stage reads it.
        seconds: wall time, over all attempts that ended by themselves.
        process_seconds: processor time of this process likewise.
        versions: of Python and the packages.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    config: JsonValue
    config_sha256: str
    inputs: Mapping[str, InputRecord]
    outputs: Mapping[str, str]
    result: JsonValue
    seconds: float
    process_seconds: float
    versions: Mapping[str, str]

    @property
    def outputs_sha256(self) -> str:
        """Fingerprint of all outputs together; times and results don't count."""
        return json_sha256(dict(self.outputs))


def json_sha256(value: JsonValue) -> str:
    """Give the fingerprint (hex) of a JSON value; the order of keys doesn't matter."""
    return hashlib.sha256(_canonical(value)).hexdigest()


def _canonical(value: JsonValue) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def write_record(record: StageRecord, folder: Path) -> None:
    """Write a record with a fingerprint of itself, so that damage is seen.

    Raises:
        OSError: the file can't be written.
    """
    content = record.model_dump(mode="json")
    text = json.dumps({**content, "sha256": json_sha256(content)}, indent=1, sort_keys=True)
    write_whole(folder / RECORD_FILE, text.encode() + b"\n")


def read_record(folder: Path) -> StageRecord:
    """Read a record back.

    Raises:
        RunDirError: the file is absent or damaged; the message names it.
    """
    path = folder / RECORD_FILE
    try:
        content = json.loads(path.read_bytes())
        stated = content.pop("sha256")
        record = StageRecord.model_validate(content)
    except FileNotFoundError as error:
        raise RunDirError(f"{path}: absent: the stage is not finished") from error
    except OSError as error:
        raise RunDirError(f"{path}: {error.strerror}") from error
    except (ValueError, ValidationError, AttributeError, KeyError, TypeError) as error:
        raise RunDirError(f"{path}: damaged: {str(error).splitlines()[0]}") from error
    if stated != json_sha256(content):
        raise RunDirError(f"{path}: damaged: its fingerprint is not what it says")
    return record


def hash_outputs(folder: Path, left_out: frozenset[str] = frozenset({RECORD_FILE})) -> dict[str, str]:
    """Give the sha256 of each file below a folder, by its path there.

    Raises:
        RunDirError: a file can't be read, or is no plain file.
    """
    outputs: dict[str, str] = {}
    try:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if name in left_out or (path.is_dir() and not path.is_symlink()):
                continue
            if path.is_symlink() or not path.is_file():
                raise RunDirError(f"{path}: got a link or a special file; outputs must be plain files")
            outputs[name] = file_sha256(path)
    except OSError as error:
        raise RunDirError(f"{error.filename or folder}: {error.strerror}") from error
    return outputs


def find_damage(record: StageRecord, folder: Path) -> str | None:
    """Compare a stage's files with its record: name the first that is absent, changed or new; None where all fit."""
    found = hash_outputs(folder)
    for name in sorted({*found, *record.outputs}):
        if name not in found:
            return f"output {name} is absent"
        if name not in record.outputs:
            return f"output {name} is not of the stage"
        if found[name] != record.outputs[name]:
            return f"output {name} is not what it was"
    return None


@cache
def versions() -> Mapping[str, str]:
    """List the versions of Python and of the packages that results may depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found

"""Bundles on disk: the immutable folder that is served, ``<cascade>/<version>/{plan.json, members/<member>/...}``."""

import hashlib
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from cascade_serve.core.plan import Plan
from cascade_serve.errors import BundleError, PlanError

PLAN_FILE = "plan.json"
MEMBERS_FOLDER = "members"
GRAPH_FILE = "model.onnx"

_PLAN = TypeAdapter(Plan)
_CHUNK_BYTES = 1 << 20
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """One version of one cascade, verified.

    Attributes:
        name: the cascade's name, that of its folder.
        version: a positive integer, that of its folder.
        path: the version's folder.
        plan: what is served.
    """

    name: str
    version: int
    path: Path
    plan: Plan

    def member_path(self, member: str) -> Path:
        """Give the folder of a member's files."""
        return self.path / MEMBERS_FOLDER / member


def read_plan(path: Path) -> Plan:
    """Read a plan file.

    Raises:
        BundleError: the file is missing, or does not hold a consistent plan of this schema.
    """
    try:
        return _PLAN.validate_json(path.read_bytes(), strict=False, extra="forbid")
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from error
    except (ValidationError, PlanError) as error:
        raise BundleError(f"{path}: {error}") from error


def plan_to_json(plan: Plan) -> bytes:
    """Write a plan as indented JSON."""
    return _PLAN.dump_json(plan, indent=2) + b"\n"


def load_bundle(path: Path) -> Bundle:
    """Read one version's folder and verify the sha256 of every file that its plan names.

    Args:
        path: ``<cascade>/<version>``.

    Raises:
        BundleError: a file is missing or is not what the plan says, or the folder's name is not a version.
    """
    path = path.absolute()
    version = _version(path)
    plan = read_plan(path / PLAN_FILE)
    _verify_members(path, plan)
    return Bundle(name=path.parent.name, version=version, path=path, plan=plan)


def _version(path: Path) -> int:
    if not _VERSION.fullmatch(path.name):
        raise BundleError(f"{path}: version: got {path.name!r}; must be a positive integer, such as 1")
    return int(path.name)


def _verify_members(path: Path, plan: Plan) -> None:
    for member in plan.members:
        if GRAPH_FILE not in member.files:
            raise BundleError(f"{path}: member {member.name!r} names no {GRAPH_FILE}")
        verify_files(path / MEMBERS_FOLDER / member.name, member.files)


def verify_files(folder: Path, files: Mapping[str, str]) -> None:
    """Check files against their checksums.

    Args:
        folder: where they lie.
        files: relative path → sha256 (hex).

    Raises:
        BundleError: one is missing, lies outside the folder, or is not what its checksum says.
    """
    for relative, expected in files.items():
        path = _path_within(folder, relative)
        try:
            actual = sha256_file(path)
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror}") from error
        if actual != expected:
            raise BundleError(f"{path}: sha256: got {actual}; must be {expected}")


def _path_within(folder: Path, relative: str) -> Path:
    path = folder / relative
    if "\0" in relative or not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{path}: lies outside {folder}")
    return path


def check_target(target: Path) -> int:
    """Refuse a path that a bundle can't be written to, or that no server would look at.

    Args:
        target: ``<cascade>/<version>``.

    Returns:
        the version.

    Raises:
        BundleError: the version's or the cascade's name is none, or the target exists.
    """
    target = target.absolute()
    version, cascade = _version(target), target.parent.name
    if not cascade or cascade.startswith(".") or not cascade.isprintable():
        raise BundleError(f"{target}: cascade: got {cascade!r}; must be printable and not start with a dot")
    if target.exists():
        raise BundleError(f"{target}: exists already; bundles are immutable, so choose the next version")
    return version


def write_bundle(target: Path, plan: Plan, members: Mapping[str, Path]) -> Bundle:
    """Write a bundle, whole or not at all.

    Args:
        target: ``<cascade>/<version>``; must not exist yet.
        plan: what will be served; its members' ``files`` say what is copied.
        members: member name → folder that its files are copied from.

    Returns:
        the bundle; the copies were verified.

    Raises:
        BundleError: :func:`check_target` refuses the target, it can't be written, or a file to copy is not what the
            plan says.
    """
    target = target.absolute()
    # A leading dot keeps a half-written bundle out of a watching server's sight.
    partial = target.parent / f".{target.name}.{secrets.token_hex(4)}.partial"
    try:
        version = check_target(target)
        partial.mkdir(parents=True)
        for member in plan.members:
            _copy_files(members[member.name], partial / MEMBERS_FOLDER / member.name, member.files)
        (partial / PLAN_FILE).write_bytes(plan_to_json(plan))
        _verify_members(partial, plan)
        partial.rename(target)
    except OSError as error:
        raise BundleError(f"{error.filename or target}: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Bundle(name=target.parent.name, version=version, path=target, plan=plan)


def _copy_files(source: Path, target: Path, files: Iterable[str]) -> None:
    for relative in files:
        copy = _path_within(target, relative)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / relative, copy)


def sha256_file(path: Path) -> str:
    """Give a file's sha256 in hex, reading it in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()

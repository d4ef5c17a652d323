"""The folder of a run: stages whose hand-overs are files, so that a killed run goes on and a change re-does its part.

Beside each other lie one folder for each finished stage, with its outputs and ``done.json``; ``<stage>.partial``, where
a stage is being worked on or was killed; and ``.lock``. A finished stage is taken as it is where its settings and
inputs have not changed and its outputs are what its record says. A partial one goes on where settings and inputs have
not changed.
"""

import fcntl
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from pydantic import JsonValue

from training.errors import RunDirError
from training.files import file_sha256
from training.run_record import (
    RECORD_FILE,
    InputRecord,
    StageRecord,
    find_damage,
    json_sha256,
    read_record,
    versions,
)
from training.run_stage import FinishedStage, Stage, open_stage

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")

Input = Path | str | FinishedStage
"""What a stage reads: a file; the sha256 (hex) of something that is no file; or all outputs of another stage."""


class RunDir:
    """A run's folder, held by one process at a time.

    A stage looks like this::

        with RunDir(Path("runs/cifar10")) as run:
            with run.stage("select", config=to_json(config.select), inputs={"splits": splits_file}) as stage:
                if not stage.is_done:
                    write_subset(subset, stage.path / "subset.json")
                    stage.finish({"spearman": 0.9})
            subset = read_subset(stage.path / "subset.json")

    Args:
        path: made where it is absent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None
        self._open: set[str] = set()

    def __enter__(self) -> Self:
        """Hold the folder.

        Raises:
            RunDirError: another process holds it, or it can't be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _hold(self.path / ".lock")
        except OSError as error:
            raise RunDirError(f"{error.filename or self.path}: {error.strerror}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @contextmanager
    def stage(self, name: str, *, config: JsonValue, inputs: Mapping[str, Input]) -> Iterator[Stage]:
        """Open a stage: finished where nothing has changed, else with a folder to work in.

        Args:
            name: lower-case letters, digits, ``-`` and ``_``.
            config: everything that the outputs depend on besides the inputs.
            inputs: everything that the stage reads, by name.

        Raises:
            RunDirError: the folder is not held, the name is no name, an input can't be read, or the stage ended without
                having been finished.
        """
        final = self.path / name
        self._check_open(name)
        try:
            stage = open_stage(final, self._plan(name, config, inputs))
        except OSError as error:
            raise RunDirError(f"{error.filename or final}: {error.strerror}") from error
        self._open.add(name)
        try:
            yield stage
        finally:
            self._open.remove(name)
            stage.leave()
        if not stage.is_done:
            raise RunDirError(f"{final}: stage {name!r} ended without finish()")

    def _check_open(self, name: str) -> None:
        if self._lock is None:
            raise RunDirError(f"{self.path}: not held; must be opened by `with`")
        if not _NAME.fullmatch(name):
            raise RunDirError(f"stage: got {name!r}; must be lower-case letters, digits, - and _")
        if name in self._open:
            raise RunDirError(f"{self.path / name}: stage {name!r} is open already")

    def find(self, name: str) -> FinishedStage:
        """Give a finished stage as it lies there, verified, without holding the folder.

        Raises:
            RunDirError: it is not finished, or damaged; the message names the file.
        """
        folder = self.path / name
        record = read_record(folder)
        damage = find_damage(record, folder)
        if damage is not None:
            raise RunDirError(f"{folder}: {damage}: run the stage again")
        return FinishedStage(folder=folder, record=record)

    def finished(self) -> tuple[str, ...]:
        """List the names of the finished stages."""
        folders = sorted(path.parent for path in self.path.glob(f"*/{RECORD_FILE}"))
        return tuple(folder.name for folder in folders if _NAME.fullmatch(folder.name))

    def descent(self, name: str) -> tuple[FinishedStage, ...]:
        """Collect a stage and all that it came from, each after what it read; verified.

        Raises:
            RunDirError: a stage is not finished, damaged, or was made again since it was read.
        """
        found: dict[str, FinishedStage] = {}
        self._collect(name, found)
        return tuple(found.values())

    def _collect(self, name: str, found: dict[str, FinishedStage]) -> None:
        stage = self.find(name)
        for label, read in stage.record.inputs.items():
            if read.stage is None:
                continue
            if read.stage not in found:
                self._collect(read.stage, found)
            made = found[read.stage].record
            now = made.outputs_sha256 if read.path is None else made.outputs.get(read.path)
            if now != read.sha256:
                raise RunDirError(
                    f"{stage.folder}: input {label} has changed, because stage {read.stage!r} was made again: "
                    f"run {name!r} again"
                )
        found[name] = stage

    def _plan(self, name: str, config: JsonValue, inputs: Mapping[str, Input]) -> StageRecord:
        return StageRecord(
            stage=name,
            config=config,
            config_sha256=json_sha256(config),
            inputs={label: self._input(value) for label, value in inputs.items()},
            outputs={},
            result=None,
            seconds=0.0,
            process_seconds=0.0,
            versions=versions(),
        )

    def _input(self, value: Input) -> InputRecord:
        if isinstance(value, FinishedStage):
            return InputRecord(sha256=value.record.outputs_sha256, stage=value.name)
        if isinstance(value, str):
            return InputRecord(sha256=value)
        sha256 = file_sha256(value)
        absolute, own = value.absolute(), self.path.absolute()
        if not absolute.is_relative_to(own) or len(absolute.relative_to(own).parts) < 2:
            # Names of another encoding too must fit into the record.
            return InputRecord(sha256=sha256, path=os.fsencode(value).decode(errors="backslashreplace"))
        stage, *rest = absolute.relative_to(own).parts
        return InputRecord(sha256=sha256, stage=stage, path="/".join(rest))


def _hold(path: Path) -> IO[str]:
    """Lock a file for as long as it is open, also against a second opening in this process."""
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise RunDirError(f"{path.parent}: in use by {holder}; wait for it, or take another folder") from error
    file.seek(0)
    file.truncate()
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file

"""One stage of a run: done, gone on with, or begun anew; what it writes is put in place at once."""

import json
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from training.errors import RunDirError
from training.files import write_whole
from training.run_record import RECORD_FILE, StageRecord, find_damage, hash_outputs, read_record, write_record

_PARTIAL = ".partial"
_REPLACED = ".replaced"
_PLAN_FILE = "plan.json"
SCRATCH = "scratch"
"""Folder of a stage's checkpoints: it outlives a killed attempt, and is gone when the stage is finished."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedStage:
    """A stage that is done.

    Attributes:
        folder: holds its outputs.
        record: what it read, how it was set, what came of it.
    """

    folder: Path
    record: StageRecord

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.record.stage


class Stage:
    """One stage while it is open; see :meth:`RunDir.stage`.

    Attributes:
        name: of the stage.
        reason: why it is not done, such as ``input splits changed``; empty where it is done.
    """

    def __init__(self, *, final: Path, plan: StageRecord, reason: str = "", done: FinishedStage | None = None) -> None:
        self.name = plan.stage
        self.reason = reason
        self._final = final
        self._partial = final.with_name(final.name + _PARTIAL)
        self._plan = plan
        self._done = done
        self._start = (time.perf_counter(), time.process_time())

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to do."""
        return self._done is not None

    @property
    def done(self) -> FinishedStage:
        """The finished stage.

        Raises:
            RunDirError: it isn't finished yet.
        """
        if self._done is None:
            raise RunDirError(f"{self._partial}: stage {self.name!r} is not finished")
        return self._done

    @property
    def path(self) -> Path:
        """The folder of the outputs: to be written into until the stage is finished, and read from thereafter.

        What a killed attempt with the same settings and inputs has left is still there.
        """
        return self._partial if self._done is None else self._done.folder

    @property
    def scratch(self) -> Path:
        """A folder for checkpoints, which are no outputs; made on first use."""
        if self._done is not None:
            raise RunDirError(f"{self._final}: stage {self.name!r} is finished and has no scratch folder")
        folder = self._partial / SCRATCH
        folder.mkdir(exist_ok=True)
        return folder

    def finish(self, result: JsonValue = None) -> FinishedStage:
        """Take everything in ``path`` as the stage's outputs, and put them in place at once.

        Args:
            result: what the stage tells of itself for reports and cards.

        Raises:
            RunDirError: it is finished already, or an output is no plain file or can't be moved.
        """
        if self._done is not None:
            raise RunDirError(f"{self._final}: stage {self.name!r} is finished already")
        try:
            shutil.rmtree(self._partial / SCRATCH, ignore_errors=True)
            outputs = hash_outputs(self._partial, frozenset({RECORD_FILE, _PLAN_FILE}))
            seconds, process_seconds = self._spent()
            spent = {"seconds": seconds, "process_seconds": process_seconds}
            record = self._plan.model_copy(update={"outputs": outputs, "result": result, **spent})
            write_record(record, self._partial)
            _promote(self._final)
        except OSError as error:
            raise RunDirError(f"{error.filename or self._final}: {error.strerror}") from error
        self._done = FinishedStage(folder=self._final, record=record)
        return self._done

    def leave(self) -> None:
        """Note the time that an unfinished attempt took, so that the record will count it, where it can be noted."""
        if self._done is not None or not self._partial.exists():
            return
        seconds, process_seconds = self._spent()
        plan = self._plan.model_copy(update={"seconds": seconds, "process_seconds": process_seconds})
        # A full disk may well be what the stage ended by; that must be heard of, rather than this.
        with suppress(OSError):
            _write_plan(plan, self._partial)

    def _spent(self) -> tuple[float, float]:
        wall, process = self._start
        seconds = self._plan.seconds + time.perf_counter() - wall
        return seconds, self._plan.process_seconds + time.process_time() - process


def open_stage(final: Path, plan: StageRecord) -> Stage:
    """Open a stage, finished or to be worked on.

    Args:
        final: where its outputs come to lie.
        plan: its settings and inputs as they are now.

    Raises:
        OSError: a file can't be read, written or removed.
    """
    _recover(final)
    reason = _reason(final, plan)
    if not reason:
        return Stage(final=final, plan=plan, done=FinishedStage(folder=final, record=read_record(final)))
    return Stage(final=final, plan=_prepare(final, plan), reason=reason)


def _reason(final: Path, plan: StageRecord) -> str:
    """Say why a stage must be done; empty where it needn't."""
    if not final.exists():
        return "not done yet"
    try:
        record = read_record(final)
    except RunDirError as error:
        return str(error)
    if record.config_sha256 != plan.config_sha256:
        return "settings changed"
    return _changed_input(record, plan) or find_damage(record, final) or ""


def _changed_input(before: StageRecord, now: StageRecord) -> str | None:
    for label in sorted({*before.inputs, *now.inputs}):
        if label not in now.inputs:
            return f"input {label} is gone"
        if label not in before.inputs:
            return f"input {label} is new"
        if not before.inputs[label].is_same(now.inputs[label]):
            return f"input {label} changed"
    return None


def _prepare(final: Path, plan: StageRecord) -> StageRecord:
    """Make the folder to work in, without what attempts at something else have left; give the plan with time spent."""
    partial = final.with_name(final.name + _PARTIAL)
    earlier = _read_plan(partial)
    is_same = earlier is not None and earlier.config_sha256 == plan.config_sha256
    if earlier is not None and is_same and _changed_input(earlier, plan) is None:
        _clear_halves(partial)
        return plan.model_copy(update={"seconds": earlier.seconds, "process_seconds": earlier.process_seconds})
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir()
    _write_plan(plan, partial)
    return plan


def _clear_halves(partial: Path) -> None:
    """Remove what a killed attempt was just writing; see ``training.files.write_whole``."""
    for path in partial.rglob(f".*{_PARTIAL}"):
        path.unlink()


def _write_plan(plan: StageRecord, partial: Path) -> None:
    write_whole(partial / _PLAN_FILE, plan.model_dump_json().encode())


def _read_plan(partial: Path) -> StageRecord | None:
    """Give the plan of an unfinished attempt; None where there is none that can be gone on with."""
    try:
        return StageRecord.model_validate(json.loads((partial / _PLAN_FILE).read_bytes()))
    except (OSError, ValueError):
        return None


def _promote(final: Path) -> None:
    """Put a finished partial folder in the place of what was there; can be gone on with after any of its steps."""
    partial, replaced = final.with_name(final.name + _PARTIAL), final.with_name(final.name + _REPLACED)
    (partial / _PLAN_FILE).unlink(missing_ok=True)
    if final.exists():
        final.rename(replaced)
    partial.rename(final)
    shutil.rmtree(replaced, ignore_errors=True)


def _recover(final: Path) -> None:
    """Bring a promotion to its end that was killed on the way."""
    partial, replaced = final.with_name(final.name + _PARTIAL), final.with_name(final.name + _REPLACED)
    if (partial / RECORD_FILE).exists():
        _promote(final)
    elif replaced.exists():
        shutil.rmtree(replaced)

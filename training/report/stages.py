"""How far each stage of a run is: done, outdated, on its way, or not begun."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from training.pipeline.data_stage import STAGE as DATA
from training.pipeline.evaluation_stage import STAGE as EVALUATION
from training.pipeline.policy_stage import STAGE as POLICY
from training.pipeline.running import RunFile
from training.pipeline.selection_stage import STAGE as SELECTION
from training.run_dir import RunDir
from training.run_stage import FinishedStage

_PARTIAL = ".partial"
_PLAN_FILE = "plan.json"
_UNDECIDING = ("ray", "checkpoint_interval_s")
"""Of a policy search's settings: where it runs and how often it is written down."""


class StageState(StrEnum):
    """How far a stage is."""

    DONE = "done"
    OUTDATED = "outdated"
    """Done, but what it was made from or by has changed since."""
    UNFINISHED = "unfinished"
    MISSING = "not begun"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStage:
    """One stage as the report finds it.

    Attributes:
        name: its folder's.
        state: how far it is.
        finished: its record and folder, verified; None where there are none.
        partial: the folder that it is worked on in; None where there is none, or where it is a leftover.
        is_asked_for: the run's last command needs it.
        reads: names of the stages that it read, or reads.
    """

    name: str
    state: StageState
    finished: FinishedStage | None = None
    partial: Path | None = None
    is_asked_for: bool = True
    reads: tuple[str, ...] = ()


def read_stages(run_dir: Path, run: RunFile) -> dict[str, RunStage]:
    """Look at all stages of a run, in the order in which they are made.

    Args:
        run_dir: the run's folder; it isn't held, so another process may be at work in it.
        run: what was asked for last.

    Raises:
        RunDirError: a finished stage is damaged; the message names the file.
    """
    folder = RunDir(run_dir)
    finished = {name: folder.find(name) for name in folder.finished()}
    partial = {path.name.removesuffix(_PARTIAL): path for path in sorted(run_dir.glob(f"[a-z0-9]*{_PARTIAL}"))}
    asked_for = _asked_for(run)
    names = [*asked_for, *(name for name in (*finished, *partial) if name not in asked_for)]
    outdated = {name for name, stage in finished.items() if not _has_settings(stage, run)}
    stages = {}
    for name in dict.fromkeys(names):
        is_current = name in finished and _is_current(name, finished, outdated)
        stages[name] = RunStage(
            name=name,
            state=_state(is_current=is_current, is_partial=name in partial, is_finished=name in finished),
            finished=finished.get(name),
            partial=None if is_current else partial.get(name),
            is_asked_for=name in asked_for,
            reads=_reads(finished.get(name), None if is_current else partial.get(name)),
        )
    return {name: stages[name] for name in _ordered(stages)}


def _state(*, is_current: bool, is_partial: bool, is_finished: bool) -> StageState:
    if is_current:
        return StageState.DONE
    if is_partial:
        return StageState.UNFINISHED
    return StageState.OUTDATED if is_finished else StageState.MISSING


def _reads(finished: FinishedStage | None, partial: Path | None) -> tuple[str, ...]:
    """Name the stages that a stage reads: now, where it is being made, and else as its record says."""
    try:
        inputs = None if partial is None else json.loads((partial / _PLAN_FILE).read_bytes())["inputs"]
        names = [] if inputs is None else [read["stage"] for read in inputs.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # It has just begun, or just ended.
        names = []
    if not names and finished is not None:
        names = [read.stage for read in finished.record.inputs.values()]
    return tuple(dict.fromkeys(name for name in names if name is not None))


def _asked_for(run: RunFile) -> list[str]:
    """Name the stages that the last command needs."""
    config: Any = run.config
    names = [DATA]
    if run.command == "select" or (run.members and config.get("should_select")):
        names.append(SELECTION)
    if run.command == "search-policy" or (run.members and config.get("should_search")):
        names.append(POLICY)
    return [*names, *run.members.values(), *([EVALUATION] if run.members else [])]


def _is_current(name: str, finished: Mapping[str, FinishedStage], outdated: set[str]) -> bool:
    """Tell whether a stage, and all that it came from, is what the records of its readers say."""
    if name in outdated:
        return False
    for read in finished[name].record.inputs.values():
        if read.stage is None:
            continue
        if read.stage not in finished or not _is_current(read.stage, finished, outdated):
            return False
        made = finished[read.stage].record
        if read.sha256 != (made.outputs_sha256 if read.path is None else made.outputs.get(read.path)):
            return False
    return True


def _has_settings(stage: FinishedStage, run: RunFile) -> bool:
    """Tell whether a stage was made by the settings of the run's last command; true where that has none for it."""
    try:
        return _is_same(stage, run)
    except (KeyError, TypeError, AttributeError):
        # Another version wrote it, with other settings.
        return False


def _is_same(stage: FinishedStage, run: RunFile) -> bool:
    found: Any = stage.record.config
    config: Any = run.config
    match stage.name:
        case _ if stage.name == DATA:
            return bool(found == {"source": config.get("source"), "splits": config.get("splits")})
        case _ if stage.name == SELECTION and SELECTION in _asked_for(run):
            return bool(found["selection"] == config.get("selection"))
        case _ if stage.name == POLICY and POLICY in _asked_for(run):
            return _deciding(found["policy_search"]) == _deciding(config.get("policy_search") or {})
        case _ if stage.name == EVALUATION and run.members:
            return bool(found["members"] == list(run.members))
        case _:
            own = [member for member in config.get("members", ()) if run.members.get(member["name"]) == stage.name]
            return not own or _without_policy(found["member"]) == _without_policy(own[0])


def _deciding(search: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in search.items() if key not in _UNDECIDING}


def _without_policy(member: Mapping[str, Any]) -> Mapping[str, Any]:
    """Leave out what a searched or given schedule takes the place of; that it changed shows in the stage's inputs."""
    augment = {**member["loop"]["augment"], "policy": None, "policy_schedule": None}
    return {**member, "loop": {**member["loop"], "augment": augment}}


def _ordered(stages: Mapping[str, RunStage]) -> list[str]:
    """Put each stage after what it read, otherwise as they come."""
    ordered: list[str] = []

    def add(name: str) -> None:
        if name in ordered:
            return
        for read in stages[name].reads:
            if read in stages and read != name:
                add(read)
        ordered.append(name)

    for name in stages:
        add(name)
    return ordered

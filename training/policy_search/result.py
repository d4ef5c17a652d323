"""What a search comes to, and the files that say so."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import JsonValue

from training.augment.policy import PolicySchedule
from training.augment.schedule_files import write_policy_schedule
from training.errors import PolicySearchError
from training.files import write_whole
from training.policy_search.history import IntervalRecord, record_from_json, record_to_json
from training.policy_search.lineage import best_record, last_records, lineage, schedule_of

RESULT_FILE = "result.json"
RECORDS_FILE = "trials.jsonl"
SCHEDULE_FILE = "policy_schedule.json"
SCHEDULES_FOLDER = "schedules"


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """A finished search.

    Attributes:
        schedule: of the best trial: its lineage back to epoch 0.
        best_trial: the one that was most accurate at the end; among equals, one by chance.
        best_accuracy: its, on the validation images that it was chosen by, and so flattering.
        schedules: of each trial.
        records: of each interval of each trial, in order of time.
        seconds: wall-clock time, over all the processes that the search was resumed in.
        trial_seconds: summed over trials: what one device would have taken.
        evaluations: images trained on, summed over trials.
    """

    schedule: PolicySchedule
    best_trial: int
    best_accuracy: float
    schedules: tuple[PolicySchedule, ...]
    records: tuple[IntervalRecord, ...]
    seconds: float
    trial_seconds: float
    evaluations: int

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Each trial's accuracy at the end, by trial."""
        return tuple(record.accuracy for record in last_records(self.records).values())

    def trial_records(self, trial: int) -> tuple[IntervalRecord, ...]:
        """Give the history of one trial."""
        return tuple(record for record in self.records if record.trial == trial)


def make_result(records: tuple[IntervalRecord, ...], *, seed: int, seconds: float) -> SearchResult:
    """Choose the best trial and read every trial's schedule from its lineage.

    Args:
        records: of a finished search.
        seed: of the choice among equals.
        seconds: that it took.

    Raises:
        PolicySearchError: every trial diverged, or the records have gaps.
    """
    last = last_records(records)
    best = best_record(last.values(), np.random.default_rng([seed, 4]))
    schedules = {trial: schedule_of(lineage(records, record.key)) for trial, record in last.items()}
    return SearchResult(
        schedule=schedules[best.trial],
        best_trial=best.trial,
        best_accuracy=best.accuracy,
        schedules=tuple(schedules.values()),
        records=records,
        seconds=seconds,
        trial_seconds=sum(record.seconds for record in records),
        evaluations=sum(record.evaluations for record in records),
    )


def write_result(result: SearchResult, folder: Path, *, fingerprint: str, config: JsonValue) -> None:
    """Write the files of a search; ``result.json`` comes last, and says that the others are whole.

    Args:
        result: what it came to.
        folder: gets ``trials.jsonl`` (a record a line), ``policy_schedule.json`` (the best trial's), the folder
            ``schedules`` with every trial's, and ``result.json``.
        fingerprint: of all that decides the result.
        config: as JSON, for the reader.

    Raises:
        PolicySearchError: a file can't be written.
    """
    accuracies = result.accuracies
    lines = [json.dumps(record_to_json(record)) for record in result.records]
    summary = {
        "fingerprint": fingerprint,
        "best_trial": result.best_trial,
        "best_accuracy": result.best_accuracy,
        "accuracies": accuracies,
        "seconds": result.seconds,
        "trial_seconds": result.trial_seconds,
        "evaluations": result.evaluations,
        "config": config,
    }
    try:
        write_whole(folder / RECORDS_FILE, ("\n".join(lines) + "\n").encode())
        for trial, schedule in enumerate(result.schedules):
            path = folder / SCHEDULES_FOLDER / f"trial_{trial:04d}.json"
            write_policy_schedule(schedule, path, _metadata(trial, accuracies[trial]))
        best = _metadata(result.best_trial, result.best_accuracy)
        write_policy_schedule(result.schedule, folder / SCHEDULE_FILE, best)
        write_whole(folder / RESULT_FILE, (json.dumps(summary, indent=1) + "\n").encode())
    except OSError as error:
        raise PolicySearchError(f"{error.filename or folder}: {error.strerror or error}") from error


def _metadata(trial: int, accuracy: float) -> Mapping[str, Any]:
    return {"trial": trial, "validation_accuracy": accuracy}


def read_fingerprint(folder: Path) -> str | None:
    """Give the fingerprint of the finished search in a folder; None where none is finished there.

    Raises:
        PolicySearchError: the file can't be read.
    """
    path = folder / RESULT_FILE
    return str(_read_summary(path)["fingerprint"]) if path.exists() else None


def read_result(folder: Path, *, seed: int) -> SearchResult:
    """Read a finished search.

    Args:
        folder: of :func:`write_result`.
        seed: as for :func:`make_result`.

    Raises:
        PolicySearchError: a file can't be read.
    """
    summary = _read_summary(folder / RESULT_FILE)
    path = folder / RECORDS_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        records = tuple(record_from_json(json.loads(line)) for line in lines)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PolicySearchError(f"{path}: can't be read: {error!r}") from error
    return make_result(records, seed=seed, seconds=float(summary["seconds"]))


def _read_summary(path: Path) -> Mapping[str, Any]:
    try:
        summary: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PolicySearchError(f"{path}: can't be read: {error!r}") from error
    if not {"fingerprint", "seconds"} <= summary.keys():
        raise PolicySearchError(f"{path}: got keys {', '.join(summary)}; must hold fingerprint and seconds")
    return summary

"""What a search on Ray leaves on disk: a folder a session, from which a later one goes on."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.errors import PolicySearchError
from training.policy_search.history import IntervalRecord, record_from_json
from training.policy_search.ray_trainable import RECORD_FILE, STATE_FILE

_SESSION = "session_"
JOURNAL = "records.jsonl"


def next_session(folder: Path) -> Path:
    """Name the folder of a session after all that are there."""
    return folder / f"{_SESSION}{len(_sessions(folder)):03d}"


def append_record(journal: Path, line: str) -> IntervalRecord:
    """Add a record, given as JSON, to a session's journal.

    Raises:
        OSError: it can't be written.
    """
    with journal.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    return record_from_json(json.loads(line))


def read_records(folder: Path) -> tuple[IntervalRecord, ...]:
    """Read all records of all sessions, in order of time.

    Raises:
        PolicySearchError: a journal can't be read.
    """
    return tuple(record for session in _sessions(folder) for record in _read_journal(session / JOURNAL))


def _sessions(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_SESSION}*"))


def _read_journal(path: Path) -> Iterator[IntervalRecord]:
    if not path.exists():
        return
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise PolicySearchError(f"{path}: records can't be read: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        try:
            yield record_from_json(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            # A killed driver may leave half a line.
            if number == len(lines):
                return
            raise PolicySearchError(f"{path}: line {number}: is no record: {error!r}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A complete checkpoint of an earlier session.

    Attributes:
        folder: it lies in.
        record: the last that its weights went through.
    """

    folder: Path
    record: IntervalRecord


def read_checkpoints(folder: Path) -> tuple[Checkpoint, ...]:
    """Find all checkpoints of all sessions, older ones first; half-written ones are left out."""
    found = []
    for session in _sessions(folder):
        for path in sorted(session.glob(f"*/checkpoint_*/{RECORD_FILE}")):
            try:
                record = record_from_json(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if (path.parent / STATE_FILE).exists():
                found.append(Checkpoint(folder=path.parent, record=record))
    return tuple(found)

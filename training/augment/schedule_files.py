"""Policy schedules as files: our JSON, by op name, and the original repository's text, which is read alone.

The text is the log that Ray Tune kept of the best trial (github.com/arcelien/pba, ``schedules/*.txt``): a line each
time that it became the clone of another, as the literal ``[trial, clone of, the trial's epochs, the clone's epochs,
old configuration, new configuration]``, Python's in the published files, JSON's in those that Ray Tune writes since. A
configuration is 60 numbers, or has them under ``hp_policy``: for each of two copies the (probability, magnitude) of 15
ops, in the order of ``TEXT_OPS``.
"""

import ast
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.augment.ops import get_op
from training.augment.policy import Policy, PolicyEntry, PolicySchedule, Segment
from training.errors import AugmentError
from training.files import write_whole

FORMAT = "policy-schedule"
VERSION = 1
TEXT_OPS = (
    "Rotate", "TranslateX", "TranslateY", "Brightness", "Color", "Invert", "Sharpness", "Posterize", "ShearX",
    "Solarize", "ShearY", "Equalize", "AutoContrast", "Cutout", "Contrast",
)  # fmt: skip
"""The order in which Python 2 kept the dict of ops that the published searches went through; the repository's last
version writes it down. NOTE: its first version lists them otherwise, and the figures of its README follow that."""
TEXT_EPOCHS = {"rcifar10_16_wrn": 200, "rsvhn_16_wrn": 160}
"""Epochs of the published searches, by the stem of their file: the text does not hold them."""
MAX_BYTES = 16 * 2**20
_TEXT_COPIES = 2
_TEXT_FIELDS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleFile:
    """What a file holds.

    Attributes:
        schedule: the policies over the epochs of the search.
        metadata: whatever was written beside it, such as the search's accuracy and seeds; JSON values.
    """

    schedule: PolicySchedule
    metadata: Mapping[str, Any] = field(default_factory=dict)


def write_policy_schedule(schedule: PolicySchedule, path: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a schedule as JSON, an entry a line; a reader never sees half a file.

    Args:
        schedule: is written by op name.
        path: of the file; its folder is made where it is absent.
        metadata: JSON values to keep beside it, such as the search's accuracy.

    Raises:
        AugmentError: the metadata are no JSON.
        OSError: the file can't be written.
    """
    head = {"format": FORMAT, "version": VERSION, "epochs": schedule.epochs, "metadata": dict(metadata or {})}
    try:
        lines = [json.dumps(head, indent=1, allow_nan=False).removesuffix("\n}") + ","]
    except (TypeError, ValueError) as error:
        raise AugmentError(f"{path}: metadata: {error}; must be JSON values") from error
    segments = ",\n".join(_segment_json(segment) for segment in schedule.segments)
    lines.append(f' "segments": [\n{segments}\n ]\n}}\n')
    write_whole(path, "\n".join(lines).encode())


def _segment_json(segment: Segment) -> str:
    entries = ",\n".join(
        "    " + json.dumps({"op": entry.op, "probability": entry.probability, "magnitude": entry.magnitude})
        for entry in segment.policy
    )
    return f'  {{"epochs": {segment.epochs}, "policy": [\n{entries}\n  ]}}'


def read_policy_schedule(path: Path, *, epochs: int | None = None) -> PolicySchedule:
    """Read a schedule from our JSON or from the original repository's text.

    Args:
        path: of the file; what it holds decides, not its name.
        epochs: of the search, for the text, which does not hold them; may be left out for the published files.

    Raises:
        AugmentError: the file can't be read, is neither, or names an op that is not registered; the message names file,
            and line or place.
    """
    return read_schedule_file(path, epochs=epochs).schedule


def read_schedule_file(path: Path, *, epochs: int | None = None) -> ScheduleFile:
    """Read a schedule with what was written beside it; see ``read_policy_schedule``."""
    text = _read_text(path)
    if not text.lstrip().startswith("{"):
        return ScheduleFile(schedule=_parse_text(path, text, epochs), metadata={"source": path.name})
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AugmentError(f"{path}: {error}; must be JSON") from error
    if epochs is not None:
        raise AugmentError(f"{path}: epochs: got {epochs}; must be left out, as this file holds them")
    return _parse_json(path, content)


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise AugmentError(f"{path}: got {path.stat().st_size} bytes; must be at most {MAX_BYTES}")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AugmentError(f"{path}: can't be read: {error}") from error


def _parse_json(path: Path, content: Mapping[str, Any]) -> ScheduleFile:
    if content.get("format") != FORMAT:
        raise AugmentError(f"{path}: format: got {content.get('format')!r}; must be {FORMAT!r}")
    if content.get("version") != VERSION:
        raise AugmentError(f"{path}: version: got {content.get('version')!r}; must be {VERSION}")
    listed, metadata = content.get("segments"), content.get("metadata", {})
    if not isinstance(listed, list) or not isinstance(metadata, dict):
        raise AugmentError(f"{path}: segments, metadata: must be a list and an object")
    segments = tuple(_parse_segment(path, place, segment) for place, segment in enumerate(listed))
    try:
        schedule = PolicySchedule(segments=segments)
    except ValueError as error:
        raise AugmentError(f"{path}: {error}") from error
    return ScheduleFile(schedule=schedule, metadata=metadata)


def _parse_segment(path: Path, place: int, segment: object) -> Segment:
    where = f"{path}: segments[{place}]"
    match segment:
        case {"epochs": int(epochs), "policy": list(listed)} if not isinstance(epochs, bool):
            policy = tuple(_parse_entry(f"{where}.policy[{at}]", entry) for at, entry in enumerate(listed))
        case _:
            raise AugmentError(f"{where}: must be an object of epochs (a whole number) and policy (a list)")
    try:
        return Segment(epochs=epochs, policy=policy)
    except ValueError as error:
        raise AugmentError(f"{where}: {error}") from error


def _parse_entry(where: str, entry: object) -> PolicyEntry:
    match entry:
        # JSON's true is a whole number to Python.
        case {"op": str(op), "probability": int(probability), "magnitude": int(magnitude)} if not (
            isinstance(probability, bool) or isinstance(magnitude, bool)
        ):
            return _make_entry(where, op, probability, magnitude)
        case _:
            raise AugmentError(f"{where}: got {entry!r}; must be an object of op, probability and magnitude")


def _make_entry(where: str, op: str, probability: int, magnitude: int) -> PolicyEntry:
    try:
        get_op(op)
        return PolicyEntry(op=op, probability=probability, magnitude=magnitude)
    except (ValueError, AugmentError) as error:
        raise AugmentError(f"{where}: {error}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Clone:
    """A line of the text: ``trial`` went on as a clone of ``source``, which had ``epochs`` behind it."""

    line: int
    trial: str
    source: str
    epochs: int
    before: Policy
    after: Policy


def _parse_text(path: Path, text: str, epochs: int | None) -> PolicySchedule:
    clones = [_parse_line(path, number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not clones:
        raise AugmentError(f"{path}: got no lines; must be a policy schedule")
    clones = _last_chain(clones)
    end = epochs if epochs is not None else TEXT_EPOCHS.get(path.stem)
    if end is None:
        raise AugmentError(
            f"{path}: epochs: got none; must be those that the search ran for, which the text does not hold"
        )
    # Each policy is in force from where its clone took over until the next clone took over.
    starts = [0, *(clone.epochs for clone in clones), end]
    policies = [clones[0].before, *(clone.after for clone in clones)]
    segments = []
    for place, policy in enumerate(policies):
        length = starts[place + 1] - starts[place]
        if length < 0:
            line = clones[min(place, len(clones) - 1)].line
            raise AugmentError(f"{path}:{line}: epochs: got {starts[place + 1]}; must be at least {starts[place]}")
        if length:
            segments.append(Segment(epochs=length, policy=policy))
    if not segments:
        raise AugmentError(f"{path}: epochs: got {end}; must be at least 1")
    return PolicySchedule(segments=tuple(segments))


def _last_chain(clones: list[_Clone]) -> list[_Clone]:
    """Leave out leading lines that don't lead to the last trial: some logs begin with those of another."""
    first = 0
    for place in range(len(clones) - 1):
        if clones[place].trial != clones[place + 1].source:
            first = place + 1
    return clones[first:]


def _parse_line(path: Path, number: int, line: str) -> _Clone:
    where = f"{path}:{number}"
    match _parse_literal(where, line.strip()):
        case [str(trial), str(source), int(_), int(epochs), before, after]:
            return _Clone(
                line=number, trial=trial, source=source, epochs=epochs, before=_parse_configuration(where, before),
                after=_parse_configuration(where, after),
            )  # fmt: skip
        case _:
            raise AugmentError(
                f"{where}: must be a list of {_TEXT_FIELDS}: two trials, their epochs, and two configurations"
            )


def _parse_literal(where: str, line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(line)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise AugmentError(f"{where}: got no literal ({error}); must be a line of a policy schedule") from error


def _parse_configuration(where: str, configuration: object) -> Policy:
    numbers = configuration.get("hp_policy") if isinstance(configuration, dict) else configuration
    expected = _TEXT_COPIES * 2 * len(TEXT_OPS)
    if not isinstance(numbers, list) or len(numbers) != expected or not all(map(_is_whole, numbers)):
        raise AugmentError(f"{where}: configuration: must be {expected} whole numbers, or have them as 'hp_policy'")
    names = TEXT_OPS * _TEXT_COPIES
    return tuple(
        _make_entry(where, name, int(numbers[2 * place]), int(numbers[2 * place + 1]))
        for place, name in enumerate(names)
    )


def _is_whole(number: object) -> bool:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return False
    return math.isfinite(number) and number == int(number)

"""Where planning starts: a zoo's members on one task, and what they all said about the same calibration rows."""
# Shapes: N rows, K classes.

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cascade_serve.bundle import sha256_file
from cascade_serve.core.arrays import FloatArray, IntArray
from cascade_serve.core.combine import is_usable
from cascade_serve.core.plan import Member, Task
from cascade_serve.errors import ConfigError
from model_zoo.store import (
    CALIBRATION_FILE,
    CARD_FILE,
    CalibrationData,
    ZooMember,
    check_task,
    list_members,
    read_calibration,
    read_member,
    read_task,
)

MIN_ROWS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ZooRows:
    """What members said about the rows that they share.

    Attributes:
        logits: of each member, float32 [N, K].
        labels_N: int64 [N].
        sample_ids_N: int64 [N], each once.
        num_repeated: rows left out because their image stood among the others already.
    """

    logits: tuple[FloatArray, ...]
    labels_N: IntArray
    sample_ids_N: IntArray
    num_repeated: int

    def fingerprint(self, rows: IntArray | None = None) -> str:
        """Give the sha256 (hex) of sample ids and labels, of some rows (int64 indices) or all."""
        chosen = slice(None) if rows is None else rows
        digest = hashlib.sha256()
        for array_N in (self.sample_ids_N[chosen], self.labels_N[chosen]):
            digest.update(np.ascontiguousarray(array_N, dtype="<i8").tobytes())
        return digest.hexdigest()


def read_zoo_task(task_path: Path) -> Task:
    """Read the task at ``zoo/<task>``.

    Raises:
        CardError: it is missing or broken.
    """
    card = read_task(task_path)
    return Task(height=card.height, width=card.width, channels=card.channels, classes=card.classes)


def read_zoo_members(task_path: Path, names: Sequence[str] | None) -> tuple[ZooMember, ...]:
    """Read members that one plan could hold: as :func:`choose_zoo_members`, and of one engine.

    Raises:
        ConfigError: they are for different engines.
    """
    members = choose_zoo_members(task_path, names)
    shared_engine(members)
    return members


def choose_zoo_members(task_path: Path, names: Sequence[str] | None) -> tuple[ZooMember, ...]:
    """Read members and verify their files.

    Args:
        task_path: ``zoo/<task>``.
        names: which, in this order; None is all, from cheap to dear.

    Raises:
        ConfigError: one is unknown or named twice, or there are none.
        CardError: a file is missing, broken or not what its card says.
        ConflictError: a member was made for another task, such as another image size.
    """
    known = list_members(task_path)
    if not known:
        raise ConfigError(f"{task_path}: members: got none; must be at least one: see 'cascade-serve zoo add'")
    for name, count in Counter(names or ()).items():
        if name not in known:
            raise ConfigError(f"members: got {name!r}; must be among {', '.join(known)}")
        if count > 1:
            raise ConfigError(f"members: got {name!r} {count} times; must be once")
    members = [read_member(task_path / name) for name in names or known]
    task = read_task(task_path)
    for member in members:
        check_task(task, member.card.task, member.path / CARD_FILE)
    if not names:
        members.sort(key=lambda member: (member.card.cost.flops, member.name))
    return tuple(members)


def shared_engine(members: Sequence[ZooMember]) -> str:
    """Give the engine that computed the members' logits, and will serve them.

    Raises:
        ConfigError: they are for different engines, and one server has one.
    """
    first, engine = members[0].name, members[0].card.engine
    for member in members:
        if member.card.engine != engine:
            raise ConfigError(
                f"member {member.name!r}: engine: got {member.card.engine!r}; must be {engine!r}, that of {first!r}:"
                " one engine serves a plan; choose its members with --members"
            )
    return engine


def read_zoo_rows(members: Sequence[ZooMember]) -> ZooRows:
    """Read what the members said, and check that they all saw the same rows.

    Raises:
        ConfigError: rows or labels differ, a member has no usable answer at all, or there are too few rows.
        CardError: a member has no calibration file, or a broken one.
    """
    data = [read_calibration(member) for member in members]
    for member, other in zip(members, data, strict=True):
        _check_rows(members[0].name, data[0], member.name, other)
    first = data[0]
    _, kept_N = np.unique(first.sample_ids_N, return_index=True)
    kept_N = np.sort(kept_N)
    rows = ZooRows(
        logits=tuple(other.logits_NK[kept_N] for other in data),
        labels_N=first.labels_N[kept_N],
        sample_ids_N=first.sample_ids_N[kept_N],
        num_repeated=len(first.labels_N) - len(kept_N),
    )
    _check_sizes(rows)
    return rows


def _check_rows(name: str, data: CalibrationData, other_name: str, other: CalibrationData) -> None:
    if not np.array_equal(data.sample_ids_N, other.sample_ids_N):
        raise ConfigError(
            f"member {other_name!r}: its {len(other.sample_ids_N)} calibration rows are not the"
            f" {len(data.sample_ids_N)} of {name!r}, in the same order; add both with the same --data"
        )
    if not np.array_equal(data.labels_N, other.labels_N):
        raise ConfigError(f"member {other_name!r}: its calibration labels are not those of {name!r}")
    if not is_usable(other.logits_NK).any():
        raise ConfigError(f"member {other_name!r}: got no finite logits on any calibration row")


def _check_sizes(rows: ZooRows) -> None:
    total = len(rows.labels_N)
    if total < MIN_ROWS:
        raise ConfigError(
            f"calibration: got {total} different images; must be at least {MIN_ROWS}"
            " (for a useful promise, thousands), or plan by hand with --stages and --no-calibration"
        )


def plan_member(member: ZooMember, temperature: float) -> Member:
    """Say what a plan says of a zoo's member; of its files, all but the calibration rows."""
    # The graph, with its data if apart, for one engine; the weights, where it has some, for another.
    files = {name: sha256 for name, sha256 in member.card.files.items() if name != CALIBRATION_FILE}
    files[CARD_FILE] = sha256_file(member.path / CARD_FILE)
    return Member(
        name=member.name,
        flops=member.card.cost.flops,
        temperature=temperature,
        precision=member.card.precision,
        seconds=member.card.cost.seconds or None,
        profiled_device=member.card.cost.profiled_device if member.card.cost.seconds else None,
        files=files,
    )

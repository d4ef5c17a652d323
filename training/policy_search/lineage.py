"""From the records of a search to a schedule: the line of clones behind a trial's last weights."""

from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np

from training.augment.policy import PolicySchedule, Segment
from training.errors import PolicySearchError
from training.policy_search.history import IntervalRecord


def lineage(records: Iterable[IntervalRecord], key: str) -> tuple[IntervalRecord, ...]:
    """Follow weights back to epoch 0, from clone to cloned.

    Args:
        records: of the whole search, in any order.
        key: of the record to start from.

    Returns:
        the records that those weights went through, from epoch 0 on; their epochs join without gap.

    Raises:
        PolicySearchError: a record is absent, or two of the line don't join.
    """
    by_key = {record.key: record for record in records}
    line: list[IntervalRecord] = []
    wanted: str | None = key
    while wanted is not None:
        if wanted not in by_key:
            raise PolicySearchError(f"record {wanted!r}: got none; the lineage of {key!r} needs it")
        record = by_key[wanted]
        if line and record.end_epoch != line[-1].start_epoch:
            raise PolicySearchError(
                f"record {line[-1].key!r}: starts at epoch {line[-1].start_epoch}; "
                f"must start where its parent {record.key!r} ends, at {record.end_epoch}"
            )
        line.append(record)
        wanted = record.parent
    if line[-1].start_epoch != 0:
        raise PolicySearchError(f"record {line[-1].key!r}: starts at epoch {line[-1].start_epoch} without a parent")
    return tuple(reversed(line))


def schedule_of(line: Sequence[IntervalRecord]) -> PolicySchedule:
    """Make a schedule of a lineage; neighbours with equal policies become one segment."""
    return PolicySchedule(
        segments=tuple(
            Segment(policy=policy, epochs=sum(record.epochs for record in group))
            for policy, group in groupby(line, key=lambda record: record.policy)
        )
    )


def last_records(records: Iterable[IntervalRecord]) -> dict[int, IntervalRecord]:
    """Give each trial's last record, by trial, in order; ``records`` are in the order in which they were made."""
    last = {record.trial: record for record in records}
    return dict(sorted(last.items()))


def best_record(records: Iterable[IntervalRecord], generator: np.random.Generator) -> IntervalRecord:
    """Choose the most accurate of some records; among equals, by chance.

    Raises:
        PolicySearchError: all diverged, or there are none.
    """
    sound = [record for record in records if not record.diverged]
    if not sound:
        raise PolicySearchError("trials: every one diverged; try a lower learning rate")
    top = max(record.accuracy for record in sound)
    equals = [record for record in sound if record.accuracy == top]
    return equals[int(generator.integers(len(equals)))]

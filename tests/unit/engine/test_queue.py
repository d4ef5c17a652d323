"""What runs next, case by case."""

import itertools
import math

import pytest

from cascade_serve.engine.batching import BatchLimits
from cascade_serve.engine.queue import MAX_PASSES, Entry, MemberQueues, rank_of


def entry(slot: int, *, sequence: int = 0, stage: int = 0, priority: int = 0, queued_s: float = 0.0) -> Entry:
    return Entry(rank_of(priority), sequence or slot, slot, stage, queued_s)


def limits_of(max_rows: int, ample_rows: int | None = None) -> BatchLimits:
    return BatchLimits(max_rows=max_rows, full_rows=max_rows, ample_rows=ample_rows or max_rows)


def queues_of(num_members: int, max_rows: int, max_queue_delay_s: float) -> MemberQueues:
    return MemberQueues([limits_of(max_rows)] * num_members, max_queue_delay_s)


def taken(queues: MemberQueues, now_s: float = 0.0) -> tuple[int, list[int]] | None:
    batch = queues.take(now_s)
    return None if batch is None else (batch[0], [row.slot for row in batch[1]])


def test_an_empty_queue_has_nothing() -> None:
    queues = queues_of(2, 4, 0.0)
    assert taken(queues) is None
    assert queues.next_ready_s() == math.inf
    assert len(queues) == 0


def test_rows_leave_by_priority_then_age_and_at_most_a_batch_at_a_time() -> None:
    queues = queues_of(1, 3, 0.0)
    queues.put(0, [entry(1), entry(2), entry(3, priority=2), entry(4, priority=1), entry(5)])
    assert taken(queues) == (0, [4, 3, 1])
    assert taken(queues) == (0, [2, 5])


def test_the_oldest_row_goes_first_whatever_its_member() -> None:
    queues = queues_of(2, 4, 0.0)
    queues.put(0, [entry(7, sequence=7)])
    queues.put(1, [entry(3, sequence=3, stage=1)])
    assert taken(queues) == (1, [3])


def test_a_deeper_stage_wins_a_tie_in_age() -> None:
    queues = queues_of(2, 4, 0.0)
    queues.put(0, [entry(1, sequence=5, stage=0)])
    queues.put(1, [entry(2, sequence=5, stage=1)])
    assert taken(queues) == (1, [2])


def test_a_batch_worth_its_run_goes_before_older_rows_that_are_not_and_the_oldest_such_batch_first() -> None:
    queues = queues_of(3, 2, 0.0)
    queues.put(0, [entry(2, sequence=2), entry(3, sequence=3)])
    queues.put(1, [entry(1, sequence=1, stage=1)])
    queues.put(2, [entry(4, sequence=4, stage=2), entry(5, sequence=5, stage=2)])
    assert taken(queues) == (0, [2, 3])
    # The first was passed over, and goes next; of the others, none was.
    assert [taken(queues), taken(queues)] == [(1, [1]), (2, [4, 5])]


@pytest.mark.parametrize(("ample_rows", "order"), [(1, [1, 0]), (2, [1, 0]), (3, [0, 1]), (4, [0, 1])])
def test_how_many_older_rows_give_way_depends_on_what_a_larger_batch_saves(ample_rows: int, order: list[int]) -> None:
    queues = MemberQueues([limits_of(4), limits_of(4, ample_rows)], 0.0)
    queues.put(0, [entry(slot, sequence=9) for slot in range(4)])
    queues.put(1, [entry(5, sequence=1, stage=1), entry(6, sequence=2, stage=1)])
    batches = [taken(queues) for _ in order]
    assert [batch[0] for batch in batches if batch is not None] == order


def test_a_late_stage_is_not_starved_by_full_early_batches() -> None:
    queues = queues_of(2, 2, 0.0)
    queues.put(1, [entry(999, sequence=1, stage=1)])
    order = []
    for step in range(MAX_PASSES + 2):
        queues.put(0, [entry(10 * step + 1, sequence=10 + step), entry(10 * step + 2, sequence=10 + step)])
        batch = queues.take(0.0)
        assert batch is not None
        order.append(batch[0])
    assert order == [0] * MAX_PASSES + [1, 0]


LIMITS = [(8, 8, 8), (1, 1, 1), (8, 1, 1), (1, 8, 8), (2, 32, 4), (32, 4, 1)]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("num_deferring", [0, 1, 5, 9, 10])
@pytest.mark.parametrize("batching_pays", [False, True])
def test_no_stage_starves_at_any_exit_rate_and_batch_limit(
    limits: tuple[int, int, int], num_deferring: int, batching_pays: bool
) -> None:
    """Three stages, a batch of new rows at the door before each batch: of ten rows in a line, so many go on."""
    queues = MemberQueues([limits_of(rows, rows if batching_pays else 1) for rows in limits], 0.0)
    sequence = itertools.count()
    waiting = [0, 0, 0]
    # How long each queue has had rows and was not served: in all, and since batches of older rows.
    idle = [0, 0, 0]
    most_idle = [0, 0, 0]
    most_waiting = [0, 0, 0]
    served = [0, 0, 0]
    for _ in range(200):
        queues.put(0, [entry(next(sequence)) for _ in range(limits[0])])
        waiting[0] += limits[0]
        batch = queues.take(0.0)
        assert batch is not None
        member, rows = batch
        going_on = [row._replace(stage=member + 1) for row in rows if member < 2 and row.sequence % 10 < num_deferring]
        waiting[member] -= len(rows)
        served[member] += len(rows)
        if going_on:
            queues.put(member + 1, going_on)
            waiting[member + 1] += len(going_on)
        for stage in range(3):
            idle[stage] = 0 if stage == member or not waiting[stage] else idle[stage] + 1
            most_idle[stage] = max(most_idle[stage], idle[stage])
            most_waiting[stage] = max(most_waiting[stage], waiting[stage])
    # A late stage waits for no more than the passes, and what its last batch has left to do; so does the first.
    assert max(most_idle[1:]) <= MAX_PASSES + 1 + -(-limits[1] // limits[2]), most_idle
    assert most_idle[0] <= (MAX_PASSES + 1) * sum(-(-limits[0] // rows) for rows in limits[1:]), most_idle
    # What was begun is finished: rows pile up at the door, and not between stages.
    assert max(most_waiting[1:]) <= (MAX_PASSES + 2) * limits[0], most_waiting
    assert all(count > 0 for count in served[: 3 if num_deferring else 1])


def test_a_higher_priority_beats_even_a_starved_queue() -> None:
    queues = queues_of(2, 1, 0.0)
    queues.put(1, [entry(999, sequence=1, stage=1)])
    for step in range(MAX_PASSES + 1):
        queues.put(0, [entry(step, sequence=10 + step, priority=1)])
        assert taken(queues) == (0, [step])


def test_rows_wait_for_the_delay_unless_the_batch_is_full() -> None:
    queues = queues_of(1, 2, 0.5)
    queues.put(0, [entry(1, queued_s=10.0)])
    assert taken(queues, 10.4) is None
    assert queues.next_ready_s() == 10.5
    assert not queues.has_ready(10.4)
    assert queues.has_ready(10.5)
    queues.put(0, [entry(2, queued_s=10.4)])
    assert taken(queues, 10.4) == (0, [1, 2])


def test_removed_rows_are_gone_from_every_queue_and_the_order_holds() -> None:
    queues = queues_of(2, 8, 0.0)
    queues.put(0, [entry(slot) for slot in (5, 3, 1, 4, 2)])
    queues.put(1, [entry(3, stage=1)])
    queues.remove({3, 1})
    assert taken(queues) == (0, [2, 4, 5])
    assert taken(queues) is None

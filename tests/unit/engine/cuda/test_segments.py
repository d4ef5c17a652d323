"""Queues of segments: whole batches from parts of requests, in the order of priority, depth and age."""

import numpy as np
import pytest
from table_committee import make_plan, make_table_bench

from cascade_serve.core.request import Request, Terms
from cascade_serve.core.route import make_route
from cascade_serve.engine.batching import BatchLimits
from cascade_serve.engine.cuda.segments import Segment, SegmentQueues
from cascade_serve.engine.queue import MAX_PASSES
from cascade_serve.engine.ticket import RowTicket

PLAN = make_plan()


def ticket(sequence: int, priority: int = 0) -> RowTicket:
    terms = Terms(priority=priority)
    request = Request(images_BHWC=np.zeros((1, 1, 1, 1), np.uint8), terms=terms)
    owner = make_table_bench().engine
    made = RowTicket(owner, request=request, route=make_route(PLAN, terms), slots=[0], admitted_s=0.0)
    made.sequence = sequence
    return made


def segment(owner: RowTicket, *slots: int, stage: int = 0, queued_s: float = 0.0) -> Segment:
    return Segment(owner, stage, np.array(slots), queued_s)


def queues(max_rows: int = 4, full_rows: int = 4, ample_rows: int = 4, delay_s: float = 0.0) -> SegmentQueues:
    limits = BatchLimits(max_rows=max_rows, full_rows=full_rows, ample_rows=ample_rows)
    return SegmentQueues([limits] * 3, delay_s)


def slots_of(taken: list[Segment]) -> list[list[int]]:
    return [part.slot_N.tolist() for part in taken]


def test_a_batch_takes_whole_segments_and_a_part_of_the_last() -> None:
    waiting, (first, second) = queues(), (ticket(0), ticket(1))
    waiting.put(segment(second, 5, 6, 7))
    waiting.put(segment(first, 1, 2))
    assert len(waiting) == 5
    assert slots_of(waiting.take(0.0)) == [[1, 2], [5, 6]]
    assert slots_of(waiting.take(0.0)) == [[7]]
    assert waiting.take(0.0) == []
    assert len(waiting) == 0


def test_what_is_left_of_a_request_keeps_its_place() -> None:
    waiting, (first, second) = queues(), (ticket(0), ticket(1))
    waiting.put(segment(first, *range(6)))
    assert slots_of(waiting.take(0.0)) == [[0, 1, 2, 3]]
    waiting.put(segment(second, 9))
    assert slots_of(waiting.take(0.0)) == [[4, 5], [9]]


def test_priority_goes_before_age() -> None:
    waiting = queues()
    waiting.put(segment(ticket(0), 1))
    waiting.put(segment(ticket(1, priority=2), 2))
    waiting.put(segment(ticket(2, priority=1), 3))
    assert slots_of(waiting.take(0.0)) == [[3], [2], [1]]


def test_a_full_deeper_stage_goes_first_and_a_shallow_one_is_not_starved() -> None:
    waiting = queues(max_rows=1)
    waiting.put(segment(ticket(0), 0))
    for index in range(1, 10):
        waiting.put(segment(ticket(index), index, stage=1))
    stages = [waiting.take(0.0)[0].stage for _ in range(10)]
    assert stages.index(0) == MAX_PASSES


@pytest.mark.parametrize(("ample_rows", "order"), [(1, [1, 0]), (2, [1, 0]), (3, [0, 1]), (4, [0, 1])])
def test_a_batch_that_is_ample_runs_when_its_turn_comes(ample_rows: int, order: list[int]) -> None:
    waiting, (older, younger) = queues(ample_rows=ample_rows), (ticket(0), ticket(1))
    waiting.put(segment(older, 8, 9, stage=1))
    waiting.put(segment(younger, 0, 1, 2, 3))
    assert [waiting.take(0.0)[0].stage for _ in order] == order


def test_rows_wait_for_company_no_longer_than_the_delay() -> None:
    waiting = queues(full_rows=3, delay_s=1.0)
    waiting.put(segment(ticket(0), 1, 2, queued_s=10.0))
    assert not waiting.has_ready(10.5)
    assert waiting.next_ready_s() == pytest.approx(11.0)
    assert waiting.has_ready(11.0)
    waiting.put(segment(ticket(1), 3, queued_s=10.5))
    assert waiting.has_ready(10.5)


def test_a_request_that_ends_leaves_every_queue() -> None:
    waiting, (first, second) = queues(), (ticket(0), ticket(1))
    waiting.put(segment(first, 1, 2))
    waiting.put(segment(second, 3))
    waiting.put(segment(first, 4, stage=1))
    waiting.remove(first)
    assert len(waiting) == 1
    assert slots_of(waiting.take(0.0)) == [[3]]

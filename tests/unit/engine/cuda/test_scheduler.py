"""Rows of the torch engine without threads: what comes back late changes nothing, and slots outlive their batches."""
# Shapes: B rows of a batch.

from dataclasses import dataclass, replace

import numpy as np
import pytest
from table_committee import make_plan, make_table_bench

from cascade_serve.core.request import ExitReason, OnDeadline, Request, Terms
from cascade_serve.core.route import make_route
from cascade_serve.engine.cuda.answers import AnswerSlab
from cascade_serve.engine.cuda.lane import Verdicts
from cascade_serve.engine.cuda.scheduler import Batch, SegmentScheduler
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.engine.ticket import RowTicket
from cascade_serve.errors import AbandonedError, LateError


@dataclass
class House:
    """A scheduler with its answers."""

    scheduler: SegmentScheduler
    answers: AnswerSlab

    def admit(self, rows: int, *, deadline_s: float | None = None, **terms: object) -> RowTicket:
        wanted = Terms(confidence_threshold=1.0, **terms)  # type: ignore[arg-type]
        request = Request(images_BHWC=np.zeros((rows, 1, 1, 1), np.uint8), terms=wanted, deadline_s=deadline_s)
        owner = make_table_bench().engine
        slots = self.answers.take(rows)
        ticket = RowTicket(owner, request=request, route=make_route(PLAN, wanted), slots=slots, admitted_s=0.0)
        self.scheduler.enqueue(ticket)
        return ticket

    def take(self, now_s: float = 0.0) -> Batch:
        batch = self.scheduler.take(now_s)
        assert batch is not None
        return batch

    def run(self, batch: Batch, verdicts: Verdicts, now_s: float = 0.0) -> None:
        self.scheduler.settle(batch, verdicts, now_s)
        self.scheduler.finish(batch)


PLAN = make_plan()


@pytest.fixture
def house() -> House:
    answers = AnswerSlab(PLAN, 8)
    return House(SegmentScheduler(PLAN, EngineConfig(max_batch_size=4, max_queue_rows=8), answers), answers)


@pytest.mark.parametrize(
    ("seconds", "most"),
    [
        # 3 would be the best, but runs as 4 do.
        ({1: 1.0, 2: 0.9, 3: 0.1, 4: 0.5, 6: 0.5}, 4),
        ({1: 1.0, 2: 0.5, 4: 0.5}, 2),
        # The bound is a bucket, whatever it is.
        ({1: 1.0, 2: 0.5, 4: 0.4, 6: 0.3}, 6),
        ({1: 1.0, 3: 0.1}, 6),
    ],
)
def test_a_profile_counts_at_the_sizes_that_batches_run_in(seconds: dict[int, float], most: int) -> None:
    plan = replace(PLAN, members=(replace(PLAN.members[0], seconds=seconds), *PLAN.members[1:]))
    config = EngineConfig(max_batch_size=6, max_queue_rows=8)
    assert SegmentScheduler(plan, config, AnswerSlab(plan, 8)).largest_batch_M == (most, 6, 6)


def said(rows: int, *, label: int = 0, sure: float = 0.5, confident: bool = False, exits: bool = False) -> Verdicts:
    return Verdicts(
        label_B=np.full(rows, label),
        confidence_B=np.full(rows, sure, dtype=np.float32),
        usable_B=np.ones(rows, dtype=np.bool_),
        confident_B=np.full(rows, confident),
        exits_B=np.full(rows, exits),
        fails_B=np.zeros(rows, dtype=np.bool_),
        probabilities_BK=np.full((rows, 3), 1 / 3, dtype=np.float32),
    )


def test_an_early_answer_is_not_touched_by_the_batch_that_was_running(house: House) -> None:
    ticket = house.admit(2, deadline_s=10.0, on_deadline=OnDeadline.ANSWER)
    house.run(house.take(), said(2, label=1, sure=0.4))
    running = house.take()
    house.scheduler.expire(ticket, 10.0)
    assert ticket.is_closed
    assert ticket.error is None
    house.run(running, said(2, label=2, sure=0.9, confident=True, exits=True), now_s=11.0)
    slots = ticket.slots
    assert house.answers.label_R[slots].tolist() == [1, 1]
    assert house.answers.stage_R[slots].tolist() == [0, 0]
    assert house.answers.reason_R[slots].tolist() == [ExitReason.DEADLINE] * 2
    assert house.answers.exited_s_R[slots].tolist() == [10.0, 10.0]
    assert ticket.open_rows == 0
    assert not house.scheduler.has_waiting


def test_slots_are_kept_until_the_last_batch_that_holds_them_ends(house: House) -> None:
    ticket = house.admit(6)
    first, second = house.take(), house.take()
    assert [first.rows, second.rows] == [4, 2]
    assert house.scheduler.num_running == 6
    house.scheduler.end(ticket, AbandonedError("gone"))
    house.scheduler.release(ticket)
    assert house.answers.num_free == 2
    house.run(first, said(4))
    assert house.answers.num_free == 2
    house.run(second, said(2))
    assert house.answers.num_free == 8
    assert not house.scheduler.has_waiting
    assert house.scheduler.num_running == 0


def test_survivors_of_several_batches_run_together(house: House) -> None:
    tickets = [house.admit(3), house.admit(3)]
    first, second = house.take(), house.take()
    assert [segment.ticket for segment in first.segments] == tickets
    exits_B = np.array([True, False, True, True])
    verdicts = said(4)
    verdicts.exits_B[:] = verdicts.confident_B[:] = exits_B
    house.run(first, verdicts)
    house.run(second, said(2))
    third = house.take()
    assert third.member == 1
    assert third.load.slot_B.tolist() == [tickets[0].slots[1], *tickets[1].slots[1:]]
    assert not third.load.is_first_B.any()


def test_late_rows_fail_when_a_batch_is_formed(house: House) -> None:
    ticket = house.admit(2, deadline_s=5.0)
    in_time = house.admit(1)
    batch = house.take(now_s=6.0)
    assert [segment.ticket for segment in batch.segments] == [in_time]
    assert isinstance(ticket.error, LateError)


def test_a_row_answered_early_leaves_the_others_of_its_request_running(house: House) -> None:
    """A segment that is looked at too late exits alone; its request ends with its last row."""
    ticket = house.admit(5, deadline_s=10.0, on_deadline=OnDeadline.ANSWER)
    first, second = house.take(), house.take()
    house.run(first, said(4, label=1))
    house.scheduler.statistics.expect(1, 5.0)
    assert house.scheduler.take(7.0) is None
    assert (ticket.is_closed, ticket.open_rows) == (False, 1)
    house.run(second, said(1, label=2, confident=True, exits=True), now_s=8.0)
    assert ticket.is_closed
    assert house.answers.label_R[ticket.slots].tolist() == [1, 1, 1, 1, 2]
    reasons = [ExitReason.DEADLINE] * 4 + [ExitReason.CONFIDENT]
    assert house.answers.reason_R[ticket.slots].tolist() == reasons

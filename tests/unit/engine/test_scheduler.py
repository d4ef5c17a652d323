"""Rows without threads: whose each slot is, for how long, and what a row leaves with when its time is up."""
# Shapes: R slots, B rows of a batch, S stages, K classes.

from dataclasses import dataclass

import numpy as np
import pytest
from table_committee import CLASSES, FLOPS, make_plan, make_table_bench

from cascade_serve.core.combine import combine_stages, member_score
from cascade_serve.core.confidence import confidence
from cascade_serve.core.request import ExitReason, Mode, OnDeadline, Request, Terms
from cascade_serve.core.route import make_route
from cascade_serve.engine.batch_run import BatchOutcome
from cascade_serve.engine.gating import Gated, gate, score_logits
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.engine.scheduler import Batch, Scheduler
from cascade_serve.engine.slab import Slab
from cascade_serve.engine.ticket import REPLY_MARGIN_S, RowTicket
from cascade_serve.errors import AbandonedError, LateError, MemberError

PLAN = make_plan()
NUM_SLOTS = 8


@dataclass
class House:
    """A scheduler with its slab."""

    scheduler: Scheduler
    slab: Slab

    def admit(self, rows: int, *, deadline_s: float | None = None, **terms: object) -> RowTicket:
        wanted = Terms(**terms)  # type: ignore[arg-type]
        request = Request(images_BHWC=np.zeros((rows, 1, 1, 1), np.uint8), terms=wanted, deadline_s=deadline_s)
        slots = self.scheduler.reserve(rows)
        owner = make_table_bench().engine
        ticket = RowTicket(owner, request=request, route=make_route(PLAN, wanted), slots=slots, admitted_s=0.0)
        self.scheduler.enqueue(ticket)
        return ticket

    def take(self) -> Batch:
        batch = self.scheduler.take(0.0)
        assert batch is not None
        return batch

    def hear(self, batch: Batch, *logits: list[float]) -> list[Gated]:
        """Let a batch's member say something of each row, and end the batch."""
        scores = score_logits(PLAN, batch.member, np.array(logits, dtype=np.float32))
        gates = self.scheduler.note(batch, BatchOutcome(*scores))
        self.scheduler.finish(batch)
        return gates

    def abandon(self, ticket: RowTicket) -> None:
        self.scheduler.end(ticket, AbandonedError("gone"))
        self.scheduler.release(ticket)


def make_house(max_batch_size: int) -> House:
    slab = Slab(PLAN, NUM_SLOTS)
    config = EngineConfig(max_batch_size=max_batch_size, max_queue_rows=NUM_SLOTS)
    return House(Scheduler(PLAN, config, slab), slab)


@pytest.fixture
def house() -> House:
    return make_house(4)


def test_a_batch_fails_nobody_who_has_taken_its_slots(house: House) -> None:
    gone, staying = house.admit(2), house.admit(2)
    batch = house.take()
    assert batch.slots == [*gone.slots, *staying.slots]
    house.abandon(gone)
    house.scheduler.finish(batch)
    stranger = house.admit(1)
    assert stranger.slots[0] in batch.slots
    house.scheduler.fail(batch, batch.rows)
    assert isinstance(staying.error, MemberError)
    assert not stranger.is_closed


@pytest.mark.parametrize("is_released", [False, True])
def test_slots_are_kept_until_the_last_batch_that_holds_them_ends(house: House, is_released: bool) -> None:
    ensemble = house.admit(2, mode=Mode.ENSEMBLE)
    batches = [house.take() for _ in FLOPS]
    other = house.admit(1)
    running = house.take()
    if is_released:
        house.abandon(ensemble)
    for batch in batches:
        assert house.slab.num_free == NUM_SLOTS - 3
        assert house.scheduler.num_running == 3
        house.scheduler.finish(batch)
    assert house.scheduler.num_running == 1
    assert house.slab.num_free == NUM_SLOTS - (1 if is_released else 3)
    if not is_released:
        house.abandon(ensemble)
    house.scheduler.finish(running)
    house.abandon(other)
    assert house.scheduler.num_running == 0
    assert sorted(house.slab.take(NUM_SLOTS)) == list(range(NUM_SLOTS))


def test_rows_of_a_request_that_has_ended_stand_at_no_gate(house: House) -> None:
    gone, staying = house.admit(1), house.admit(2)
    batch = house.take()
    house.abandon(gone)
    (gated,) = house.hear(batch, *[[0.0, 1.0, 2.0]] * 3)
    assert gated.slots == staying.slots
    assert [row.owner for row in gated.rows] == [staying, staying]


MIXED: list[tuple[list[float], list[float] | None]] = [
    ([3.0, 0.0, 0.0], [0.0, 1.0, 0.0]),
    ([np.nan, 0.0, 0.0], [0.0, 1.0, 5.0]),
    ([0.0, 2.0, 0.0], [np.inf, 0.0, 0.0]),
    ([0.0, 2.0, 1.0], None),
]
"""What the first and the last member say of each row; the last has not run for all."""


def test_a_late_ensemble_leaves_with_what_ran_row_by_row() -> None:
    house = make_house(1)
    ticket = house.admit(len(MIXED), mode=Mode.ENSEMBLE, on_deadline=OnDeadline.ANSWER, deadline_s=10.0)
    batches = [house.take() for _ in range(3 * len(MIXED))]
    for member, said in ((0, 0), (2, 1)):
        for batch in batches:
            logits = MIXED[batch.rows[0].position][said]
            if batch.member == member and logits is not None:
                assert house.hear(batch, logits) == []
    house.scheduler.expire(ticket, 10.0)
    assert house.scheduler.ripe == [ticket]
    for answer, logits_S in zip(ticket.answers, MIXED, strict=True):
        assert answer is not None
        spoken = [logits for logits in logits_S if logits is not None and np.isfinite(logits).all()]
        scores_1SK = np.stack([member_score(PLAN.combine, np.array([logits], np.float32), 1.0) for logits in spoken], 1)
        expected_1K = combine_stages(PLAN.combine, scores_1SK, np.ones((1, len(spoken)), np.bool_))
        assert answer.probabilities_1K.tobytes() == expected_1K.tobytes()
        assert answer.confidence == confidence(PLAN.confidence, expected_1K).item()
        assert answer.label == expected_1K.argmax()
        has_run_last = logits_S[1] is not None
        assert (answer.exit_stage, answer.flops) == ((2, FLOPS[0] + FLOPS[2]) if has_run_last else (0, FLOPS[0]))
        assert answer.exit_reason is ExitReason.DEADLINE


def test_no_early_answer_where_one_row_has_nothing_usable() -> None:
    house = make_house(2)
    ticket = house.admit(2, mode=Mode.ENSEMBLE, on_deadline=OnDeadline.ANSWER, deadline_s=10.0)
    house.hear(house.take(), [1.0, 0.0, 0.0], [np.nan] * CLASSES)
    house.scheduler.expire(ticket, 10.0)
    assert isinstance(ticket.error, LateError)
    assert "2 of 2 rows unanswered" in str(ticket.error)
    assert not house.scheduler.has_waiting


def test_a_row_leaves_early_only_where_its_own_next_member_would_end_too_late() -> None:
    house, expected_s, now_s, step_s = make_house(NUM_SLOTS), (1.0, 2.0, 4.0), 10.0, 1e-6
    for policy, next_s in (("default", expected_s[1]), ("short", expected_s[2])):
        end_s = now_s + next_s + REPLY_MARGIN_S
        for deadline_s in (end_s - step_s, end_s + step_s, None):
            house.admit(
                1, policy=policy, confidence_threshold=1.0, on_deadline=OnDeadline.ANSWER, deadline_s=deadline_s
            )
    house.admit(1, confidence_threshold=1.0, deadline_s=now_s + step_s)
    (gated,) = house.hear(house.take(), *[[0.0, 1.0, 2.0]] * 7)
    verdicts = gate(PLAN, house.slab, gated, now_s=now_s, expected_s=expected_s)
    reasons = [answer and answer.exit_reason for answer in verdicts.answers]
    assert reasons == [ExitReason.DEADLINE, None, None] * 2 + [None]
    assert not verdicts.failing


def test_what_ends_between_its_gate_and_its_settling_is_left_as_it_ended(house: House) -> None:
    gone, other, staying = (house.admit(1, confidence_threshold=threshold) for threshold in (0.0, 1.0, 0.0))
    early = house.admit(1, confidence_threshold=0.0, on_deadline=OnDeadline.ANSWER, deadline_s=10.0)
    (gated,) = house.hear(house.take(), *[[0.0, 1.0, 2.0]] * 4)
    verdicts = gate(PLAN, house.slab, gated, now_s=0.0, expected_s=(0.0, 0.0, 0.0))
    house.abandon(gone)
    house.abandon(other)
    house.scheduler.expire(early, 10.0)
    house.scheduler.settle(gated, verdicts, 0.0)
    assert house.scheduler.ripe == [early, staying]
    assert [answer and answer.exit_reason for answer in early.answers] == [ExitReason.DEADLINE]
    assert gone.answers == other.answers == [None]
    assert not house.scheduler.has_waiting


@pytest.mark.parametrize("on_deadline", list(OnDeadline))
def test_the_deadline_of_a_request_is_that_of_its_open_rows_alone(house: House, on_deadline: OnDeadline) -> None:
    ticket = house.admit(2, confidence_threshold=0.9, on_deadline=on_deadline, deadline_s=10.0)
    (gated,) = house.hear(house.take(), [9.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    house.scheduler.settle(gated, gate(PLAN, house.slab, gated, now_s=0.0, expected_s=(0.0, 0.0, 0.0)), 0.0)
    assert (ticket.open_rows, house.scheduler.ripe) == (1, [])
    house.scheduler.expire(ticket, 10.0)
    assert not house.scheduler.has_waiting
    if on_deadline is OnDeadline.FAIL:
        assert str(ticket.error) == "the deadline passed with 1 of 2 rows unanswered"
    else:
        assert house.scheduler.ripe == [ticket]
        reasons = [answer and answer.exit_reason for answer in ticket.answers]
        assert reasons == [ExitReason.CONFIDENT, ExitReason.DEADLINE]

"""What becomes of each segment: queued, batched, deferred, answered or failed. The engine brings the threads."""
# Shapes: B rows of a batch, N rows of a segment.

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cascade_serve.core.arrays import BoolArray, CodeArray, Float64Array, FloatArray, IntArray
from cascade_serve.core.plan import Plan
from cascade_serve.core.request import ExitReason
from cascade_serve.engine.batching import batch_limits
from cascade_serve.engine.cuda.answers import AnswerSlab
from cascade_serve.engine.cuda.lane import Load, Verdicts
from cascade_serve.engine.cuda.segments import Segment, SegmentQueues
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.engine.statistics import RunStatistics
from cascade_serve.engine.ticket import REPLY_MARGIN_S, RowTicket
from cascade_serve.errors import LateError, MemberError, RequestError


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that run through one member together.

    Attributes:
        member: its index in the plan.
        segments: whose rows, in the batch's order.
        load: what the device is told of them.
        stage_B: int64 [B], where each row stands in its route.
        forced_B: uint8 [B] of :class:`ExitReason`: why a row leaves here when not by its confidence.
        is_gated_B: bool [B], the row comes to a gate here; an ensemble's does at its last stage alone.
        queued_s_B: float64 [B], when each was queued.
    """

    member: int
    segments: list[Segment]
    load: Load
    stage_B: IntArray
    forced_B: CodeArray
    is_gated_B: BoolArray
    queued_s_B: Float64Array

    @property
    def rows(self) -> int:
        """B."""
        return len(self.stage_B)

    def parts(self) -> Iterator[tuple[Segment, slice]]:
        """Give each segment with its place in the batch."""
        start = 0
        for segment in self.segments:
            end = start + len(segment.slot_N)
            yield segment, slice(start, end)
            start = end


def make_batch(segments: list[Segment]) -> Batch:
    """Put segments together that wait for the same member."""
    counts = [len(segment.slot_N) for segment in segments]
    routes = [segment.ticket.route for segment in segments]
    stages = [segment.stage for segment in segments]
    is_last = [stage == len(route.members) - 1 for stage, route in zip(stages, routes, strict=True)]
    forced = [route.last_reason if last else ExitReason.DEADLINE for route, last in zip(routes, is_last, strict=True)]
    is_gated = [last or not route.is_ensemble for route, last in zip(routes, is_last, strict=True)]
    thresholds: FloatArray = np.array(
        [route.thresholds[stage] for stage, route in zip(stages, routes, strict=True)], dtype=np.float32
    )
    return Batch(
        member=segments[0].member,
        segments=segments,
        load=Load(
            slot_B=np.concatenate([segment.slot_N for segment in segments]),
            threshold_B=thresholds.repeat(counts),
            is_first_B=np.repeat([stage == 0 for stage in stages], counts),
            is_last_B=np.repeat(is_last, counts),
            wants_probabilities=any(segment.ticket.request.wants_probabilities for segment in segments),
        ),
        stage_B=np.repeat(np.array(stages, dtype=np.int64), counts),
        forced_B=np.repeat(np.array(forced, dtype=np.uint8), counts),
        is_gated_B=np.repeat(is_gated, counts),
        queued_s_B=np.repeat([segment.queued_s for segment in segments], counts),
    )


def _at(buckets: Sequence[int], profile: Mapping[int, float] | None) -> dict[int, float]:
    """Keep of a profile what is so: a batch of another size is filled up to a bucket, and takes as long as that."""
    return {size: seconds for size, seconds in (profile or {}).items() if size in buckets}


class SegmentScheduler:
    """The rows of one engine. Not thread-safe: the engine's lock guards every method.

    An ensemble's members speak one after the other, like a cascade's that no confidence lets out: a row is in one
    queue or batch at a time. So nothing on the device needs a guard, and no throughput is lost: other rows fill it.

    Args:
        plan: what is served.
        config: bounds.
        answers: the host's side of the slots.

    Attributes:
        statistics: of the members' runs.
        largest_batch_M: rows of each member's largest batch.
    """

    def __init__(self, plan: Plan, config: EngineConfig, answers: AnswerSlab) -> None:
        self._plan = plan
        self._answers = answers
        limits = [
            batch_limits(_at(config.batch_buckets, member.seconds), config.max_batch_size) for member in plan.members
        ]
        self.largest_batch_M = tuple(of_member.max_rows for of_member in limits)
        self._queues = SegmentQueues(limits, config.max_queue_delay_s)
        self._num_running: dict[RowTicket, int] = {}
        self._released: set[RowTicket] = set()
        self._next_sequence = 0
        self.statistics = RunStatistics([member.name for member in plan.members])

    @property
    def has_waiting(self) -> bool:
        """Rows wait in some queue."""
        return len(self._queues) > 0

    @property
    def num_running(self) -> int:
        """Count the rows that are in a running batch."""
        return sum(self._num_running.values())

    def has_ready(self, now_s: float) -> bool:
        """Tell whether a batch may run now."""
        return self._queues.has_ready(now_s)

    def next_ready_s(self) -> float:
        """Tell when the next batch may run; infinity when no row waits."""
        return self._queues.next_ready_s()

    # In.

    def enqueue(self, ticket: RowTicket) -> None:
        """Let a request's rows wait for their first member."""
        ticket.sequence = self._next_sequence
        self._next_sequence += 1
        slot_N: IntArray = np.array(ticket.slots, dtype=np.int64)
        self._answers.open(slot_N)
        self._queues.put(Segment(ticket, 0, slot_N, ticket.admitted_s))

    # Through.

    def take(self, now_s: float) -> Batch | None:
        """Form the batch that runs next, leaving out rows whose time is up; None when none is ready."""
        while segments := self._queues.take(now_s):
            segments = [segment for segment in segments if self._is_in_time(segment, now_s)]
            # One request's end may have taken along rows that were looked at before.
            segments = [segment for segment in segments if not segment.ticket.is_closed]
            if segments:
                for segment in segments:
                    self._num_running[segment.ticket] = self._num_running.get(segment.ticket, 0) + len(segment.slot_N)
                return make_batch(segments)
        return None

    def settle(self, batch: Batch, verdicts: Verdicts, now_s: float) -> None:
        """Let rows of a batch exit, fail or defer; rows closed meanwhile are left alone."""
        answers, slot_B = self._answers, batch.load.slot_B
        open_B = answers.is_open_R[slot_B]
        answers.note(slot_B, batch.stage_B, verdicts, slice(None) if open_B.all() else np.flatnonzero(open_B))
        exits_B = (verdicts.exits_B | (self._late(batch, now_s) & ~np.isnan(verdicts.confidence_B))) & open_B
        reason_B = np.where(verdicts.confident_B, np.uint8(ExitReason.CONFIDENT), batch.forced_B)
        answers.exit(slot_B[exits_B], reason_B[exits_B], now_s)
        for segment, place in batch.parts():
            if segment.ticket.is_closed:
                continue
            if verdicts.fails_B[place].any():
                self._fail_row(segment, verdicts.fails_B[place], "no member gave a finite prediction")
            else:
                self._advance(segment, exits_B[place], now_s)

    def _advance(self, segment: Segment, exits_N: BoolArray, now_s: float) -> None:
        ticket = segment.ticket
        num_exits = int(np.count_nonzero(exits_N))
        if num_exits < len(exits_N):
            slot_N = segment.slot_N[~exits_N] if num_exits else segment.slot_N
            self._queues.put(Segment(ticket, segment.stage + 1, slot_N, now_s))
        self._count_exits(ticket, num_exits)

    def fail(self, batch: Batch, failed_B: BoolArray) -> None:
        """Fail the requests of rows on which a member raised."""
        name = self._plan.members[batch.member].name
        for segment, place in batch.parts():
            if failed_B[place].any() and not segment.ticket.is_closed:
                self._fail_row(segment, failed_B[place], f"member {name!r} failed")

    def finish(self, batch: Batch) -> None:
        """The batch runs no more: free the slots that were kept for its sake."""
        for segment in batch.segments:
            ticket = segment.ticket
            self._num_running[ticket] -= len(segment.slot_N)
            if self._num_running[ticket] == 0:
                del self._num_running[ticket]
                if ticket in self._released:
                    self._released.remove(ticket)
                    self._answers.give_back(ticket.slots)

    # Out.

    def expire(self, ticket: RowTicket, now_s: float) -> None:
        """End a request whose time is up: with what its rows have, if the caller wants that and each has something."""
        if now_s < ticket.due_s or ticket.is_closed:
            return
        slot_N = self._open_slots(ticket)
        if not (ticket.answers_early and self._answer_as_is(ticket, slot_N, now_s)):
            self.end(
                ticket, LateError(f"the deadline passed with {len(slot_N)} of {len(ticket.slots)} rows unanswered")
            )

    def end(self, ticket: RowTicket, error: RequestError) -> None:
        """End a request with an error, and take what is left of it out of the queues."""
        if not ticket.is_closed:
            self._answers.is_open_R[ticket.slots] = False
            self._queues.remove(ticket)
            ticket.close(error)

    def release(self, ticket: RowTicket) -> None:
        """Free the slots of a request that has ended, or let the last batch that runs with them do so."""
        if ticket in self._num_running:
            self._released.add(ticket)
        else:
            self._answers.give_back(ticket.slots)

    def _fail_row(self, segment: Segment, failed_N: BoolArray, reason: str) -> None:
        slot = int(segment.slot_N[failed_N.argmax()])
        self.end(segment.ticket, MemberError(f"row {segment.ticket.slots.index(slot)}: {reason}"))

    def _count_exits(self, ticket: RowTicket, count: int) -> None:
        ticket.open_rows -= count
        if ticket.open_rows == 0:
            ticket.close()

    def _open_slots(self, ticket: RowTicket) -> IntArray:
        slot_N: IntArray = np.array(ticket.slots, dtype=np.int64)
        return slot_N[self._answers.is_open_R[slot_N]]

    def _is_in_time(self, segment: Segment, now_s: float) -> bool:
        """Tell whether rows may run; those whose time is up are answered or failed here."""
        ticket = segment.ticket
        if ticket.request.deadline_s is None:
            return True
        if not ticket.answers_early:
            self.expire(ticket, now_s)
            return not ticket.is_closed
        end_s = now_s + self.statistics.expected_s[segment.member]
        return end_s <= ticket.due_s or not self._answer_as_is(ticket, segment.slot_N, now_s)

    def _answer_as_is(self, ticket: RowTicket, slot_N: IntArray, now_s: float) -> bool:
        """Let rows exit with what they have; False, and nothing done, where one of them has nothing."""
        if np.isnan(self._answers.confidence_R[slot_N]).any():
            return False
        self._answers.exit(slot_N, ExitReason.DEADLINE, now_s)
        self._count_exits(ticket, len(slot_N))
        if ticket.is_closed:
            self._queues.remove(ticket)
        return True

    def _late(self, batch: Batch, now_s: float) -> BoolArray:
        """Tell which rows that would rather have an early answer would not finish their next stage in time."""
        late_B: BoolArray = np.zeros(batch.rows, dtype=np.bool_)
        for segment, place in batch.parts():
            ticket, following = segment.ticket, segment.stage + 1
            deadline_s = ticket.request.deadline_s
            if deadline_s is None or not ticket.answers_early or following == len(ticket.route.members):
                continue
            expected_s = self.statistics.expected_s[ticket.route.members[following]]
            late_B[place] = now_s + expected_s + REPLY_MARGIN_S > deadline_s
        return late_B

"""What becomes of each row: queued, batched, gated, deferred, answered or failed. The engine brings the threads."""
# Shapes: B rows of a batch, R slots.

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from cascade_serve.core.plan import Plan
from cascade_serve.engine.batch_run import BatchOutcome
from cascade_serve.engine.batching import batch_limits
from cascade_serve.engine.gating import Gated, Verdicts, answer_as_is
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.engine.queue import Entry, MemberQueues, rank_of
from cascade_serve.engine.rows import Row, RowLedger
from cascade_serve.engine.slab import Slab, rows_of
from cascade_serve.engine.statistics import RunStatistics
from cascade_serve.engine.ticket import RowAnswer, RowTicket
from cascade_serve.errors import LateError, MemberError, OverloadedError, RequestError


class Batch(NamedTuple):
    """Rows that run through one member together.

    Attributes:
        member: its index in the plan.
        entries: the rows' places in its queue.
        slots: the same rows' slots.
        rows: the same rows.
    """

    member: int
    entries: list[Entry]
    slots: list[int]
    rows: list[Row]


class Scheduler:
    """The rows of one engine. Not thread-safe: the engine's lock guards every method.

    Args:
        plan: what is served.
        config: bounds.
        slab: where the rows lie.

    Attributes:
        statistics: of the members' runs.
        largest_batch_M: rows of each member's largest batch.
        ripe: requests whose rows have all been answered, to be closed by the engine.
    """

    def __init__(self, plan: Plan, config: EngineConfig, slab: Slab) -> None:
        self._plan = plan
        self._slab = slab
        limits = [batch_limits(member.seconds, config.max_batch_size) for member in plan.members]
        self.largest_batch_M = tuple(of_member.max_rows for of_member in limits)
        self._queues = MemberQueues(limits, config.max_queue_delay_s)
        self._rows = RowLedger(slab.num_slots)
        self.ripe: list[RowTicket] = []
        self._next_sequence = 0
        self.statistics = RunStatistics([member.name for member in plan.members])

    @property
    def has_waiting(self) -> bool:
        """Rows wait in some queue."""
        return self._queues.has_waiting()

    @property
    def num_running(self) -> int:
        """Count the rows that are in a running batch."""
        return self._rows.num_running

    def has_ready(self, now_s: float) -> bool:
        """Tell whether a batch may run now."""
        return self._queues.has_ready(now_s)

    def next_ready_s(self) -> float:
        """Tell when the next batch may run; infinity when no row waits."""
        return self._queues.next_ready_s()

    # In.

    def reserve(self, count: int) -> list[int]:
        """Take slots for a request.

        Raises:
            OverloadedError: too few are free.
        """
        if count > self._slab.num_free:
            raise OverloadedError(
                f"{count} rows: only {self._slab.num_free} of {self._slab.num_slots} slots (max_queue_rows) are free"
            )
        return self._slab.take(count)

    def enqueue(self, ticket: RowTicket) -> None:
        """Let a request's rows wait for their first member; those of an ensemble, for all at once."""
        route = ticket.route
        rank = rank_of(ticket.request.terms.priority)
        num_queues = len(route.members) if route.is_ensemble else 1
        ticket.sequence = self._next_sequence
        # An ensemble's first stage counts as the oldest: should time run short, the cheap members have spoken.
        self._next_sequence += num_queues
        self._rows.open(ticket, num_queues)
        for stage, member in enumerate(route.members[:num_queues]):
            entries = [Entry(rank, ticket.sequence + stage, slot, stage, ticket.admitted_s) for slot in ticket.slots]
            self._queues.put(member, entries)

    # Through.

    def take(self, now_s: float) -> Batch | None:
        """Form the batch that runs next, leaving out rows whose time is up; None when none is ready."""
        while (taken := self._queues.take(now_s)) is not None:
            member, entries = taken
            entries = [entry for entry in entries if self._is_in_time(entry, member, now_s)]
            if entries:
                slots = [entry.slot for entry in entries]
                rows = [self._rows.row(slot) for slot in slots]
                self._rows.start(rows)
                return Batch(member, entries, slots, rows)
        return None

    def note(self, batch: Batch, outcome: BatchOutcome) -> list[Gated]:
        """Write down what a member said of its batch; gives the rows that now stand at a gate, gate by gate."""
        stages = [entry.stage for entry in batch.entries]
        if stages.count(stages[0]) == len(stages):
            self._slab.score_RSK[rows_of(batch.slots), stages[0]] = outcome.score_BK
        else:
            # A member may stand at another stage in another policy.
            self._slab.score_RSK[np.array(batch.slots), np.array(stages)] = outcome.score_BK
        flops = self._plan.members[batch.member].flops
        usables: list[bool] = [True] * len(stages) if outcome.usable_B is None else outcome.usable_B.tolist()
        heard: dict[int, list[int]] = {}
        for position, (row, stage, usable) in enumerate(zip(batch.rows, stages, usables, strict=True)):
            row.hear(stage, flops, is_usable=usable)
            if row.num_to_come == 0 and row.owner is not None:
                route = row.owner.route
                heard.setdefault(len(route.members) - 1 if route.is_ensemble else stage, []).append(position)
        if len(heard) == 1 and len(heard.get(stages[0], ())) == len(stages):
            return [Gated(stages[0], batch.slots, batch.rows, rows_of(batch.slots))]
        return [self._gather(batch, stage, positions) for stage, positions in heard.items()]

    def _gather(self, batch: Batch, stage: int, positions: list[int]) -> Gated:
        slots = [batch.slots[position] for position in positions]
        return Gated(stage, slots, [batch.rows[position] for position in positions], rows_of(slots))

    def settle(self, gated: Gated, verdicts: Verdicts, now_s: float) -> None:
        """Let rows that stood at a gate exit, fail or defer; rows closed meanwhile are left alone."""
        for position, (slot, row, answer) in enumerate(zip(gated.slots, gated.rows, verdicts.answers, strict=True)):
            owner = row.owner
            if owner is None:
                continue
            if answer is not None:
                self._exit(owner, row, answer)
            elif position in verdicts.failing:
                self.end(owner, MemberError(f"row {row.position}: no member gave a finite prediction"))
            else:
                row.num_to_come = 1
                self._defer(owner, slot, gated.stage + 1, now_s)

    def fail(self, batch: Batch, rows: Iterable[Row]) -> None:
        """Fail the requests of those of a batch's rows on which its member raised.

        By row, as a slot may be another request's, or nobody's, once the batch has been finished.
        """
        name = self._plan.members[batch.member].name
        for row in rows:
            if row.owner is not None:
                self.end(row.owner, MemberError(f"row {row.position}: member {name!r} failed"))

    def finish(self, batch: Batch) -> None:
        """The batch runs no more: free the slots that were kept for its sake."""
        self._slab.give_back(self._rows.finish(batch.slots, batch.rows))

    def _defer(self, owner: RowTicket, slot: int, stage: int, now_s: float) -> None:
        rank = rank_of(owner.request.terms.priority)
        self._queues.put(owner.route.members[stage], [Entry(rank, owner.sequence, slot, stage, now_s)])

    # Out.

    def expire(self, ticket: RowTicket, now_s: float) -> None:
        """End a request whose time is up: with what its rows have, if the caller wants that and each has something."""
        if now_s < ticket.due_s or ticket.is_closed:
            return
        slots = self._rows.open_slots(ticket)
        if not (ticket.answers_early and self._answer_as_is(ticket, slots, now_s)):
            self.end(ticket, LateError(f"the deadline passed with {len(slots)} of {len(ticket.slots)} rows unanswered"))

    def end(self, ticket: RowTicket, error: RequestError) -> None:
        """End a request with an error, and take what is left of it out of the queues."""
        if not ticket.is_closed:
            slots = self._rows.open_slots(ticket)
            self._rows.close(slots)
            self._queues.remove(set(slots))
            ticket.close(error)

    def release(self, ticket: RowTicket) -> None:
        """Free the slots of a request that has ended, but for those that a running batch still needs."""
        self._slab.give_back(self._rows.release(ticket.slots))

    def _exit(self, owner: RowTicket, row: Row, answer: RowAnswer) -> None:
        owner.answers[row.position] = answer
        row.owner = None
        owner.open_rows -= 1
        if owner.open_rows == 0:
            self.ripe.append(owner)

    def _is_in_time(self, entry: Entry, member: int, now_s: float) -> bool:
        """Tell whether a row may run; one whose time is up is answered or failed here."""
        owner = self._rows.row(entry.slot).owner
        if owner is None:
            return False
        if owner.request.deadline_s is None:
            return True
        if not owner.answers_early:
            self.expire(owner, now_s)
            return not owner.is_closed
        end_s = now_s + self.statistics.expected_s[member]
        return end_s <= owner.due_s or not self._answer_as_is(owner, [entry.slot], now_s)

    def _answer_as_is(self, owner: RowTicket, slots: list[int], now_s: float) -> bool:
        """Let rows exit with what they have; False, and nothing done, where one of them has nothing."""
        rows = [self._rows.row(slot) for slot in slots]
        answers = answer_as_is(self._plan, self._slab, rows_of(slots), rows, now_s)
        if answers is None:
            return False
        self._queues.remove(set(slots))
        for row, answer in zip(rows, answers, strict=True):
            self._exit(owner, row, answer)
        return True

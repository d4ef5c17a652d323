"""The engine without a scheduler thread: whoever waits for an answer takes a free worker and runs what is queued."""
# Shapes: B rows of a batch or request, HWC image.

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import compress

import numpy as np

from cascade_serve.core.arrays import CodeArray, Float64Array
from cascade_serve.core.plan import Fingerprint, Plan
from cascade_serve.core.request import ExitReason, Reply, Request, Terms
from cascade_serve.core.route import Route, make_route
from cascade_serve.engine.admission import check_deadline, check_images
from cascade_serve.engine.batch_run import run_batch
from cascade_serve.engine.gating import gate
from cascade_serve.engine.protocol import EngineConfig, MemberStatistics, Observer, Runner
from cascade_serve.engine.scheduler import Batch, Gated, Scheduler
from cascade_serve.engine.slab import Slab, rows_of
from cascade_serve.engine.ticket import RowTicket
from cascade_serve.errors import AbandonedError, UnavailableError

_log = logging.getLogger(__name__)

_LIGHT_BYTES = 1 << 15
"""Images up to this are copied under the lock, which takes less time than to take the lock twice."""


@dataclass(frozen=True, slots=True)
class _Job:
    runner: Runner
    batch: Batch


class CommitteeEngine:
    """Serves one plan; see :class:`~cascade_serve.engine.protocol.Engine`.

    An idle engine runs a request to completion on the thread that brought it, without a hand-over. A busy one batches
    what piled up: a thread that finds no free worker sleeps until its rows are answered, its deadline comes, or a
    worker falls free while rows wait. Assistants, one fewer than workers, lend a thread where rows could run side by
    side and no other thread sleeps, such as those of an ensemble.

    Args:
        plan: what is served.
        runners: one for each worker.
        config: bounds.
        fingerprint: what computes the answers.
        observer: watches.
        is_certified: False marks every answer as uncertified, as the plan was calibrated on something else.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        plan: Plan,
        runners: Sequence[Runner],
        *,
        config: EngineConfig,
        fingerprint: Fingerprint,
        observer: Observer,
        is_certified: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if len(runners) != config.workers:
            raise ValueError(f"runners: got {len(runners)}; must be one for each of the {config.workers} workers")
        self.plan = plan
        self.config = config
        self.fingerprint = fingerprint
        self._is_certified = is_certified
        self._observer = observer
        self._clock = clock
        self._runners = tuple(runners)
        self._slab = Slab(plan, config.max_queue_rows)
        # Callers repeat themselves; what they may make up is bounded. Through this the engine must not hold itself, as
        # its sessions would then stay in memory until the garbage collector comes by.
        self._way = lru_cache(maxsize=1024)(partial(_make_way, plan, self._slab))
        self._assistants = ThreadPoolExecutor(max(1, config.workers - 1), thread_name_prefix="cascade-assistant")
        self._lock = threading.Lock()
        # What follows is guarded by the lock.
        self._ticket_ended = threading.Condition(self._lock)
        self._scheduler = Scheduler(plan, config, self._slab)
        self._idle_runners = list(runners)
        self._tickets: set[RowTicket] = set()
        self._sleepers: dict[RowTicket, None] = {}
        self._num_assisting = 0
        self._is_stopping = False

    @property
    def rows_in_flight(self) -> int:
        """Rows that hold a slot."""
        return self._slab.num_slots - self._slab.num_free

    @property
    def rows_running(self) -> int:
        """Rows in a running batch."""
        with self._lock:
            return self._scheduler.num_running

    def statistics(self) -> dict[str, MemberStatistics]:
        """Member name → its statistics."""
        with self._lock:
            return self._scheduler.statistics.by_member()

    def warm_up(self) -> None:
        """Run every member at each of its batch buckets on every worker, and learn from one row what a run takes."""
        for runner in self._runners:
            for member, largest in enumerate(self._scheduler.largest_batch_M):
                buckets = [rows for rows in self.config.batch_buckets if rows < largest]
                for rows in (largest, *reversed(buckets), 1):
                    started_s = self._clock()
                    runner.run(member, self._slab.images_RHWC[:rows])
                with self._lock:
                    self._scheduler.statistics.expect(member, self._clock() - started_s)

    def drain(self, timeout_s: float) -> bool:
        """Admit nothing more and wait for the rows in flight; tell whether all were answered in time."""
        with self._lock:
            self._is_stopping = True
            return self._ticket_ended.wait_for(lambda: not self._tickets, timeout_s)

    def close(self) -> None:
        """Fail what is left. May be called twice."""
        with self._lock:
            self._is_stopping = True
            for ticket in self._tickets:
                self._scheduler.end(ticket, UnavailableError("this version was stopped"))
        self._assistants.shutdown()

    # A request comes in.

    def admit(self, request: Request) -> RowTicket:
        """Check a request, copy its images into the slab and queue its rows; see the protocol."""
        route, blank_X = self._way(request.terms)
        check_images(request.images_BHWC, self.plan.task, self._slab.num_slots)
        now_s = self._clock()
        check_deadline(request, now_s)
        is_light = request.images_BHWC.nbytes <= _LIGHT_BYTES
        with self._lock:
            if self._is_stopping:
                raise UnavailableError("this version is stopping and takes no new requests")
            slots = self._scheduler.reserve(len(request.images_BHWC))
            ticket = RowTicket(self, request=request, route=route, slots=slots, admitted_s=now_s)
            self._tickets.add(ticket)
            if is_light:
                self._slab.fill(rows_of(slots), request, blank_X)
                self._scheduler.enqueue(ticket)
        if not is_light:
            self._slab.fill(rows_of(slots), request, blank_X)
            with self._lock:
                if not ticket.is_closed:
                    self._scheduler.enqueue(ticket)
        return ticket

    # Threads look for a batch, run it and settle it.

    def work_until_closed(self, ticket: RowTicket) -> None:
        """Run batches, whoever's rows they hold, until the ticket is closed."""
        while (job := self._next_job(ticket)) is not None:
            self._run(job)

    def _next_job(self, ticket: RowTicket) -> _Job | None:
        """Wait for a batch to run; None once the ticket is closed."""
        while True:
            with self._lock:
                now_s = self._clock()
                self._scheduler.expire(ticket, now_s)
                job = None if ticket.is_closed else self._take_job(now_s)
                if ticket.is_closed or job is not None:
                    self._call_for_hands(now_s)
                    return job
                alarm, timeout_s = self._set_alarm(ticket, now_s)
            if not alarm.acquire(timeout=timeout_s):
                with self._lock:
                    self._cancel_alarm(ticket)
            elif ticket.slept_to_the_end:
                # Nothing waits for this thread, which so gets by without the lock that all threads want.
                return None

    def _assist(self) -> None:
        while True:
            with self._lock:
                now_s = self._clock()
                job = self._take_job(now_s)
                self._call_for_hands(now_s)
                if job is None:
                    self._num_assisting -= 1
                    return
            self._run(job)

    def _take_job(self, now_s: float) -> _Job | None:
        if not self._idle_runners:
            return None
        batch = self._scheduler.take(now_s)
        return None if batch is None else _Job(self._idle_runners.pop(), batch)

    def _set_alarm(self, ticket: RowTicket, now_s: float) -> tuple[threading.Lock, float]:
        """Let a ticket's thread sleep: give the lock to acquire, and for how many seconds at most (-1: for ever)."""
        wake_s = ticket.due_s
        if self._idle_runners:
            wake_s = min(wake_s, self._scheduler.next_ready_s())
        self._sleepers[ticket] = None
        return ticket.set_alarm(), (-1 if wake_s == math.inf else max(0.0, min(wake_s - now_s, threading.TIMEOUT_MAX)))

    def _cancel_alarm(self, ticket: RowTicket) -> None:
        self._sleepers.pop(ticket, None)
        ticket.wake()

    def _call_for_hands(self, now_s: float) -> None:
        """Find one more thread where a worker is free and rows wait: one that sleeps, else an assistant."""
        if not (self._idle_runners and self._scheduler.has_waiting):
            return
        while self._sleepers:
            sleeper = next(iter(self._sleepers))
            del self._sleepers[sleeper]
            if sleeper.is_asleep:
                sleeper.call()
                return
        if self._num_assisting < self.config.workers - 1 and self._scheduler.has_ready(now_s):
            self._num_assisting += 1
            self._assistants.submit(self._assist)

    def _run(self, job: _Job) -> None:
        """Run a batch and settle it: the boundary at which anything unforeseen fails the rows it holds."""
        try:
            self._run_and_settle(job.runner, job.batch)
        except Exception:  # noqa: BLE001 - the one boundary of a working thread
            _log.exception("a batch of member %r failed", self.plan.members[job.batch.member].name)
            with self._lock:
                self._scheduler.fail(job.batch, job.batch.slots)
        finally:
            with self._lock:
                self._scheduler.finish(job.batch)
                self._idle_runners.append(job.runner)

    def _run_and_settle(self, runner: Runner, batch: Batch) -> None:
        started_s = self._clock()
        outcome = run_batch(self.plan, self._slab, runner, batch.member, batch.slots)
        compute_s = self._clock() - started_s
        queue_s_B = np.maximum(started_s - np.array([entry.queued_s for entry in batch.entries]), 0.0)
        with self._lock:
            statistics = self._scheduler.statistics
            statistics.ran(batch.member, len(batch.slots), float(queue_s_B.sum()), compute_s)
            if outcome.was_retried:
                statistics.failed(batch.member)
                self._scheduler.fail(batch, compress(batch.slots, outcome.failed_B))
            gates = self._scheduler.note(batch, outcome)
            allowance_s_M = self._scheduler.allowance_s()
        self._observer.batch_ran(self.plan.members[batch.member].name, queue_s_B, compute_s)
        for gated in gates:
            self._gate(gated, allowance_s_M)

    def _gate(self, gated: Gated, allowance_s_M: Float64Array) -> None:
        now_s = self._clock()
        verdicts = gate(self.plan, self._slab, gated.rows, gated.stage, now_s=now_s, stage_s_M=allowance_s_M)
        self._observer.rows_gated(verdicts.answers.exit_stage_B, verdicts.confidence_B)
        with self._lock:
            self._scheduler.settle(gated, verdicts, now_s)

    # A request goes out.

    def collect(self, ticket: RowTicket) -> Reply:
        """Read the answers of a ticket that was closed without an error."""
        slab, rows = self._slab, rows_of(ticket.slots)
        # Copies, as the slots are given back while the reply is still being written.
        probabilities_BK = slab.probabilities_RK[rows].copy()
        reason_B = slab.exit_reason_R[rows].copy()
        reply = Reply(
            probabilities_BK=probabilities_BK,
            label_B=probabilities_BK.argmax(axis=1),
            confidence_B=slab.confidence_R[rows].copy(),
            exit_stage_B=slab.exit_stage_R[rows].copy(),
            exit_reason_B=reason_B,
            flops_B=slab.answer_flops_R[rows].copy(),
            policy=ticket.route.policy,
            certified=self._is_certified
            and ticket.route.is_certified
            and not (ticket.answers_early and ExitReason.DEADLINE in reason_B),
        )
        self._observer.request_answered(reply, slab.exited_s_R[rows] - ticket.admitted_s)
        return reply

    def release(self, ticket: RowTicket) -> None:
        """Free a ticket's slots; what is still open of it is abandoned."""
        with self._lock:
            self._scheduler.end(ticket, AbandonedError("the request's thread gave up"))
            self._scheduler.release(ticket)
            self._tickets.discard(ticket)
            self._sleepers.pop(ticket, None)
            if not self._tickets:
                self._ticket_ended.notify_all()

    def abandon(self, ticket: RowTicket) -> None:
        """Take a ticket's rows out, as its caller has gone."""
        if ticket.is_closed:
            # As nearly always: every call tells of its end.
            return
        with self._lock:
            self._scheduler.end(ticket, AbandonedError("the caller cancelled the request or has gone"))
            # Its thread may have been the one that would wake when the rows of others have waited long enough.
            self._call_for_hands(self._clock())


def _make_way(plan: Plan, slab: Slab, terms: Terms) -> tuple[Route, CodeArray]:
    route = make_route(plan, terms)
    return route, slab.blank(route, terms.on_deadline)

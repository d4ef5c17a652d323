"""The engine: an idle one answers on the thread that asks, a busy one on threads of its own, batch after batch."""
# Shapes: B rows of a batch or request, HWC image.

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import compress

import numpy as np

from cascade_serve.core.plan import Fingerprint, Plan
from cascade_serve.core.request import ExitReason, Reply, Request
from cascade_serve.core.route import make_route
from cascade_serve.engine.admission import check_deadline, check_images
from cascade_serve.engine.batch_run import run_batch
from cascade_serve.engine.gating import Gated, Verdicts, gate
from cascade_serve.engine.protocol import EngineConfig, MemberStatistics, Observer, Runner
from cascade_serve.engine.scheduler import Batch, Scheduler
from cascade_serve.engine.slab import Slab, rows_of
from cascade_serve.engine.ticket import RowTicket
from cascade_serve.errors import AbandonedError, UnavailableError
from cascade_serve.threads import show_name, stand_back

_log = logging.getLogger(__name__)

_LIGHT_BYTES = 1 << 15
"""Images up to this are copied under the lock, which takes less time than to take the lock twice."""


@dataclass(slots=True)
class _Job:
    runner: Runner
    batch: Batch
    is_held: bool = True


class CommitteeEngine:
    """Serves one plan; see :class:`~cascade_serve.engine.protocol.Engine`.

    An idle engine runs a request to completion on the thread that brought it, without a hand-over. A busy one batches
    what piled up: a thread that finds no free worker sleeps until its rows are answered or its deadline comes.
    Assistants, at most as many as workers, run what the threads of answered requests leave behind, and what may run
    side by side, such as the members of an ensemble; they go on for as long as rows wait.

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
        # Callers repeat themselves; what they may make up is bounded.
        self._route = lru_cache(maxsize=1024)(partial(make_route, plan))
        self._assistants = ThreadPoolExecutor(
            config.workers, "cascade-assistant", initializer=_begin_assisting, initargs=(config.worker_niceness,)
        )
        self._lock = threading.Lock()
        # What follows is guarded by the lock.
        self._has_changed = threading.Condition(self._lock)
        self._scheduler = Scheduler(plan, config, self._slab)
        self._idle_runners = list(runners)
        self._tickets: set[RowTicket] = set()
        self._num_assisting = 0
        self._is_stopping = False

    @property
    def fault(self) -> str:
        """Why a member fails on every image; see the protocol."""
        return self._scheduler.statistics.fault

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
        for _ in self._assistants.map(self._warm_up, self._runners):
            pass

    def _warm_up(self, runner: Runner) -> None:
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
            return self._has_changed.wait_for(lambda: not self._tickets, timeout_s)

    def close(self) -> None:
        """Fail what is left. May be called twice."""
        with self._lock:
            self._is_stopping = True
            for ticket in self._tickets:
                self._scheduler.end(ticket, UnavailableError("this version was stopped"))
            self._has_changed.notify_all()
        self._assistants.shutdown()

    # A request comes in.

    def admit(self, request: Request) -> RowTicket:
        """Check a request, copy its images into the slab and queue its rows; see the protocol."""
        route = self._route(request.terms)
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
                self._slab.images_RHWC[rows_of(slots)] = request.images_BHWC
                self._scheduler.enqueue(ticket)
        if not is_light:
            self._bring(ticket)
        return ticket

    def _bring(self, ticket: RowTicket) -> None:
        """Copy a request's images without the lock, then queue its rows."""
        try:
            self._slab.images_RHWC[rows_of(ticket.slots)] = ticket.request.images_BHWC
        except BaseException:
            # Ctrl-C: nobody gets the ticket, so nobody else would give its slots back.
            self.release(ticket)
            raise
        with self._lock:
            if not ticket.is_closed:
                self._scheduler.enqueue(ticket)

    # Threads look for a batch, run it and settle it.

    def answer(self, ticket: RowTicket) -> Reply:
        """Run batches, whoever's rows they hold, where a worker is free, else sleep; until the ticket is closed."""
        while not ticket.is_closed:
            job, wake_s = self._look(ticket)
            if job is None:
                ticket.sleep(wake_s, self._clock)
            while job is not None:
                job = self._run(job, ticket)
        if ticket.error is not None:
            raise ticket.error
        return self._reply(ticket)

    def _look(self, ticket: RowTicket) -> tuple[_Job | None, float]:
        """Find a batch to run, for as long as the ticket is open; else tell when to look again."""
        if not self._idle_runners and self._clock() < ticket.due_s:
            # Needs no lock, which all threads want: whoever frees a worker after this looks at the queues.
            return None, ticket.due_s
        with self._lock:
            job = self._take_job(self._clock(), ticket)
            return job, (min(ticket.due_s, self._scheduler.next_ready_s()) if self._idle_runners else ticket.due_s)

    def _assist(self) -> None:
        """Run batches until no row waits, or no worker is free."""
        while True:
            with self._lock:
                job = self._await_job()
                if job is None:
                    self._num_assisting -= 1
                    return
            while job is not None:
                job = self._run(job)

    def _await_job(self) -> _Job | None:
        """Wait for rows that wait for company; None where none does, or no worker is free for them."""
        while (job := self._take_job(now_s := self._clock())) is None:
            if not (self._idle_runners and self._scheduler.has_waiting):
                return None
            self._has_changed.wait(self._scheduler.next_ready_s() - now_s)
        return job

    def _take_job(self, now_s: float, ticket: RowTicket | None = None) -> _Job | None:
        """Take what runs next, unless for a ticket that is closed, and find a thread for what may run beside it."""
        if ticket is not None:
            if not ticket.is_closed:
                self._scheduler.expire(ticket, now_s)
                self._deliver()
            if ticket.is_closed:
                self._leave()
                return None
        if not self._idle_runners:
            return None
        batch = self._scheduler.take(now_s)
        self._deliver()
        job = None if batch is None else _Job(self._idle_runners.pop(), batch)
        if self._scheduler.has_ready(now_s):
            self._call_assistant()
        elif job is None and ticket is not None and ticket.is_closed:
            # Its time was up for the batch that was to be formed.
            self._leave()
        return job

    def _leave(self) -> None:
        """A thread goes that was perhaps the last to look when the rows of others have waited long enough."""
        if self._scheduler.has_waiting:
            self._call_assistant()

    def _call_assistant(self) -> None:
        if not self._idle_runners:
            return
        if self._num_assisting < self.config.workers:
            # If no thread can be started, nothing has changed: this is not the last time that somebody looks.
            with suppress(RuntimeError):
                self._assistants.submit(self._assist)
                self._num_assisting += 1
        else:
            # Those that wait for company, for what is ready now.
            self._has_changed.notify_all()

    def _run(self, job: _Job, ticket: RowTicket | None = None) -> _Job | None:
        """Run a batch, settle it and take the next one; None where none is ready, or the ticket is closed.

        The boundary of a working thread: anything unforeseen fails the rows that the batch held.
        """
        try:
            judged = self._run_and_gate(job.runner, job.batch)
            with self._lock:
                now_s = self._clock()
                # Comes first: slots of requests that have ended meanwhile are free before anybody wakes.
                self._put_back(job)
                for gated, verdicts in judged:
                    self._scheduler.settle(gated, verdicts, now_s)
                self._deliver()
                return self._take_job(now_s, ticket)
        except BaseException as error:
            _log.exception("a batch of member %r failed", self.plan.members[job.batch.member].name)
            with self._lock:
                self._put_back(job)
                self._scheduler.fail(job.batch, job.batch.rows)
                self._deliver()
                if isinstance(error, Exception):
                    return self._take_job(self._clock(), ticket)
            # Ctrl-C, where the engine is used without a server.
            raise

    def _put_back(self, job: _Job) -> None:
        """End a batch's hold of its worker and its slots; once."""
        if job.is_held:
            job.is_held = False
            self._scheduler.finish(job.batch)
            self._idle_runners.append(job.runner)

    def _run_and_gate(self, runner: Runner, batch: Batch) -> list[tuple[Gated, Verdicts]]:
        started_s = self._clock()
        outcome = run_batch(self.plan, self._slab, runner, batch.member, batch.slots)
        now_s = self._clock()
        # Numbers of a few rows: Python's own are quicker than an array's.
        queue_s_B = [max(started_s - entry.queued_s, 0.0) for entry in batch.entries]
        with self._lock:
            statistics = self._scheduler.statistics
            statistics.ran(batch.member, len(batch.slots), sum(queue_s_B), now_s - started_s, outcome.fault)
            if outcome.failed_B is not None:
                statistics.failed(batch.member)
                self._scheduler.fail(batch, compress(batch.rows, outcome.failed_B))
            gates = self._scheduler.note(batch, outcome)
        self._observer.batch_ran(self.plan.members[batch.member].name, queue_s_B, now_s - started_s)
        return [(gated, self._gate(gated, now_s, statistics.expected_s)) for gated in gates]

    def _gate(self, gated: Gated, now_s: float, expected_s: Sequence[float]) -> Verdicts:
        verdicts = gate(self.plan, self._slab, gated, now_s=now_s, expected_s=expected_s)
        self._observer.rows_gated([gated.stage] * len(gated.rows), verdicts.confidence_B)
        return verdicts

    # A request goes out.

    def _deliver(self) -> None:
        """Free the slots of the requests whose rows all have an answer, and wake their threads."""
        ripe, self._scheduler.ripe = self._scheduler.ripe, []
        for ticket in ripe:
            self._let_go(ticket)
            ticket.close()

    def _reply(self, ticket: RowTicket) -> Reply:
        answers, route = [answer for answer in ticket.answers if answer is not None], ticket.route
        probabilities, labels, confidences, stages, reasons, flops, exited_s = zip(*answers, strict=True)
        is_early = ticket.answers_early and ExitReason.DEADLINE in reasons
        reply = Reply(
            # A copy even of one row: it was a part of its batch's array, which would live as long as the reply.
            probabilities_BK=np.concatenate(probabilities),
            label_B=np.array(labels, dtype=np.int64),
            confidence_B=np.array(confidences, dtype=np.float32),
            exit_stage_B=np.array(stages, dtype=np.int64),
            exit_reason_B=np.array(reasons, dtype=np.uint8),
            flops_B=np.array(flops, dtype=np.int64),
            policy=route.policy,
            certified=self._is_certified and route.is_certified and not is_early,
        )
        self._observer.request_answered(reply, [at_s - ticket.admitted_s for at_s in exited_s])
        return reply

    def release(self, ticket: RowTicket) -> None:
        """Free a ticket's slots, if it was not answered; what is still open of it is abandoned."""
        if ticket.is_closed and ticket.error is None:
            return
        with self._lock:
            if ticket in self._tickets:
                self._scheduler.end(ticket, AbandonedError("the request's thread gave up"))
                self._let_go(ticket)
                self._leave()

    def _let_go(self, ticket: RowTicket) -> None:
        self._scheduler.release(ticket)
        self._tickets.discard(ticket)
        if self._is_stopping:
            self._has_changed.notify_all()

    def abandon(self, ticket: RowTicket) -> None:
        """Take a ticket's rows out, as its caller has gone."""
        if ticket.is_closed:
            # As nearly always: every call tells of its end.
            return
        with self._lock:
            self._scheduler.end(ticket, AbandonedError("the caller cancelled the request or has gone"))
            self._leave()


def _begin_assisting(niceness: int) -> None:
    show_name("assistant")
    stand_back(niceness)

"""The engine on a host's memory: a thread a worker forms batches, runs them and settles what comes back."""
# Shapes: B rows of a batch or request, HWC image.

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import compress

import numpy as np

from cascade_serve.core.plan import Fingerprint, Plan
from cascade_serve.core.request import ExitReason, Reply, Request
from cascade_serve.core.route import make_route
from cascade_serve.engine.admission import check_deadline, check_images
from cascade_serve.engine.batch_run import run_batch
from cascade_serve.engine.gating import Gated, Verdicts, gate
from cascade_serve.engine.protocol import Caller, EngineConfig, MemberStatistics, Observer, Runner
from cascade_serve.engine.scheduler import Batch, Scheduler
from cascade_serve.engine.slab import Slab, rows_of
from cascade_serve.engine.ticket import Notices, RowTicket
from cascade_serve.errors import AbandonedError, UnavailableError
from cascade_serve.threads import show_name, stand_back

_log = logging.getLogger(__name__)

_LIGHT_BYTES = 1 << 15
"""Images up to this are copied under the lock, which takes less time than to take the lock twice."""


class CommitteeEngine:
    """Serves one plan; see :class:`~cascade_serve.engine.protocol.Engine`.

    Each worker has a thread of its own, which sleeps while no row waits, and under load runs one batch after the other,
    whoever's rows they hold. Who brings a request leaves it here and hears when it is closed.

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
        self._lock = threading.Lock()
        # What follows is guarded by the lock.
        self._has_work = threading.Condition(self._lock)
        self._all_left = threading.Condition(self._lock)
        self._scheduler = Scheduler(plan, config, self._slab)
        self._tickets: set[RowTicket] = set()
        self._notices = Notices()
        self._is_stopping = False
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._serve, args=(runner,), name=f"cascade-worker-{index}", daemon=True)
            for index, runner in enumerate(runners)
        ]
        for thread in self._threads:
            thread.start()

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
        with ThreadPoolExecutor(len(self._runners)) as pool:
            for _ in pool.map(self._warm_up, self._runners):
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
            return self._all_left.wait_for(lambda: not self._tickets, timeout_s)

    def close(self) -> None:
        """Fail what is left, and wait for the batches that run. May be called twice."""
        with self._lock:
            self._is_stopping = self._is_closed = True
            for ticket in self._tickets:
                self._scheduler.end(ticket, UnavailableError("this version was stopped"))
            self._has_work.notify_all()
        self._notices.tell()
        for thread in self._threads:
            thread.join()

    # A request comes in.

    def admit(self, request: Request, caller: Caller | None = None) -> RowTicket:
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
            ticket = RowTicket(
                self, request=request, route=route, slots=slots, admitted_s=now_s, notices=self._notices, caller=caller
            )
            self._tickets.add(ticket)
            if is_light:
                self._slab.images_RHWC[rows_of(slots)] = request.images_BHWC
                self._enqueue(ticket)
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
                self._enqueue(ticket)

    def _enqueue(self, ticket: RowTicket) -> None:
        self._scheduler.enqueue(ticket)
        self._has_work.notify()

    # A worker's thread looks for a batch, runs it and settles it.

    def _serve(self, runner: Runner) -> None:
        show_name("worker")
        stand_back(self.config.worker_niceness)
        batch = self._await_batch()
        while batch is not None:
            batch = self._run(runner, batch) or self._await_batch()

    def _await_batch(self) -> Batch | None:
        """Sleep until a batch may run; None once the engine is closed."""
        while True:
            with self._lock:
                batch = self._take()
                if batch is None and not self._is_closed and not self._notices:
                    wait_s = self._scheduler.next_ready_s() - self._clock()
                    self._has_work.wait(None if wait_s == math.inf else max(0.0, wait_s))
                    batch = self._take()
                is_closed = self._is_closed
            self._notices.tell()
            if batch is not None or is_closed:
                return batch

    def _take(self) -> Batch | None:
        """Form the batch that runs next, and wake a worker for what may run beside it; None when nothing is ready."""
        now_s = self._clock()
        batch = self._scheduler.take(now_s)
        # Rows whose time was up have been answered or failed.
        self._deliver()
        if batch is not None and self._scheduler.has_ready(now_s):
            self._has_work.notify()
        return batch

    def _run(self, runner: Runner, batch: Batch) -> Batch | None:
        """Run a batch, settle it and take the next one; None where none is ready.

        The boundary of a worker's thread: anything unforeseen fails the rows that the batch held.
        """
        is_held = True
        try:
            judged = self._run_and_gate(runner, batch)
            with self._lock:
                now_s = self._clock()
                for gated, verdicts in judged:
                    self._scheduler.settle(gated, verdicts, now_s)
                # Before anybody whom this answers can send more rows, which may need these slots.
                self._scheduler.finish(batch)
                is_held = False
                return self._go_on()
        except Exception:  # noqa: BLE001 - the one boundary of a working thread
            _log.exception("a batch of member %r failed", self.plan.members[batch.member].name)
            with self._lock:
                self._scheduler.fail(batch, batch.rows)
                if is_held:
                    self._scheduler.finish(batch)
                return self._go_on()
        finally:
            self._notices.tell()

    def _go_on(self) -> Batch | None:
        """Deliver what a batch has answered, and take the next one."""
        self._deliver()
        return self._take()

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

    def answer(self, ticket: RowTicket) -> Reply:
        """Sleep until the ticket is closed or its deadline comes, as the workers do the work; make its reply."""
        while not ticket.is_closed:
            self.expire(ticket)
            ticket.sleep(ticket.due_s, self._clock)
        if ticket.error is not None:
            raise ticket.error
        return self._reply(ticket)

    def expire(self, ticket: RowTicket) -> None:
        """End a request whose time is up."""
        with self._lock:
            self._scheduler.expire(ticket, self._clock())
            self._deliver()
        self._notices.tell()

    def _deliver(self) -> None:
        """Free the slots of the requests whose rows all have an answer, and tell who waits for them."""
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
                self._scheduler.end(ticket, AbandonedError("the request was given up"))
                self._let_go(ticket)
        self._notices.tell()

    def _let_go(self, ticket: RowTicket) -> None:
        self._scheduler.release(ticket)
        self._tickets.discard(ticket)
        if self._is_stopping:
            self._all_left.notify_all()

    def abandon(self, ticket: RowTicket) -> None:
        """Take a ticket's rows out, as its caller has gone."""
        if ticket.is_closed:
            # As nearly always: every call tells of its end.
            return
        with self._lock:
            self._scheduler.end(ticket, AbandonedError("the caller cancelled the request or has gone"))
        self._notices.tell()

"""The engine that keeps rows on a device: a thread a lane forms batches, launches them and settles what comes back."""
# Shapes: B rows of a batch or request.

import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np

from cascade_serve.core.arrays import BoolArray, FloatArray, IntArray
from cascade_serve.core.plan import Fingerprint, Plan
from cascade_serve.core.request import ExitReason, Reply, Request
from cascade_serve.core.route import make_route
from cascade_serve.engine.admission import check_deadline, check_images
from cascade_serve.engine.cuda.answers import AnswerSlab
from cascade_serve.engine.cuda.batch_run import run_batch
from cascade_serve.engine.cuda.lane import Executor, Lane, padding_load
from cascade_serve.engine.cuda.scheduler import Batch, SegmentScheduler
from cascade_serve.engine.protocol import Caller, EngineConfig, MemberStatistics, Observer
from cascade_serve.engine.ticket import Notices, RowTicket
from cascade_serve.errors import AbandonedError, MemberError, UnavailableError

_log = logging.getLogger(__name__)


class DeviceEngine:
    """Serves one plan on one device; see :class:`~cascade_serve.engine.protocol.Engine`.

    Each lane has a thread of its own, which sleeps in the driver, without Python's lock, until its batch has ended,
    and then settles it and launches the next. While it settles, the batches of the other lanes run: with two lanes the
    device is kept busy as long as a batch takes longer there than here. Who brings a request uploads its images, leaves
    it here and hears when it is closed.

    Args:
        plan: what is served.
        executor: the device, with one lane a worker.
        config: bounds; a worker is a lane.
        fingerprint: what computes the answers.
        observer: watches.
        is_certified: False marks every answer as uncertified, as the plan was calibrated on something else.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        plan: Plan,
        executor: Executor,
        *,
        config: EngineConfig,
        fingerprint: Fingerprint,
        observer: Observer,
        is_certified: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if len(executor.lanes) != config.workers:
            raise ValueError(f"lanes: got {len(executor.lanes)}; must be one for each of the {config.workers} workers")
        self.plan = plan
        self.config = config
        self.fingerprint = fingerprint
        self._executor = executor
        self._is_certified = is_certified
        self._observer = observer
        self._clock = clock
        # Callers repeat themselves; what they may make up is bounded.
        self._route = lru_cache(maxsize=1024)(partial(make_route, plan))
        self._answers = AnswerSlab(plan, config.max_queue_rows)
        self._lock = threading.Lock()
        # What follows is guarded by the lock.
        self._has_work = threading.Condition(self._lock)
        self._rows_left = threading.Condition(self._lock)
        self._scheduler = SegmentScheduler(plan, config, self._answers)
        self._tickets: set[RowTicket] = set()
        self._notices = Notices()
        self._num_uploading = 0
        self._is_stopping = False
        self._is_closed = False
        self._upload_fault = ""
        self._threads = [
            threading.Thread(target=self._serve, args=(lane,), name=f"cascade-lane-{index}", daemon=True)
            for index, lane in enumerate(executor.lanes)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def fault(self) -> str:
        """Why a member fails on every image, or no image can be uploaded; see the protocol."""
        return self._upload_fault or self._scheduler.statistics.fault

    @property
    def rows_in_flight(self) -> int:
        """Rows that hold a slot."""
        return self._answers.num_slots - self._answers.num_free

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
        """Make every member ready at each of its batch buckets on every lane, and learn what a run of one row takes.

        Call before the first request.

        Raises:
            MemberError: a member fails, or the device has no room for it; names the member and the batch.
        """
        buckets = self.config.batch_buckets
        for lane in self._executor.lanes:
            for member, largest in enumerate(self._scheduler.largest_batch_M):
                for rows in reversed(buckets[: bisect_left(buckets, largest) + 1]):
                    self._prepare(lane, member, rows)
                self._time_run(lane, member)

    def _prepare(self, lane: Lane, member: int, rows: int) -> None:
        try:
            lane.prepare(member, rows)
        except MemberError as error:
            name = self.plan.members[member].name
            raise MemberError(f"member {name!r}, a batch of {rows}: {error}") from error

    def _time_run(self, lane: Lane, member: int) -> None:
        load = padding_load(1, self.config.max_queue_rows)
        for _ in range(2):
            started_s = self._clock()
            lane.launch(member, load)
            lane.wait()
        with self._lock:
            self._scheduler.statistics.expect(member, self._clock() - started_s)

    def drain(self, timeout_s: float) -> bool:
        """Admit nothing more and wait for the rows in flight; tell whether all were answered in time."""
        with self._lock:
            self._is_stopping = True
            # A batch may still run over rows whose requests have ended.
            return self._rows_left.wait_for(lambda: self.rows_in_flight == 0, timeout_s)

    def close(self) -> None:
        """Fail what is left, wait for the batches and uploads that run, and free the device. May be called twice."""
        with self._lock:
            self._is_stopping = True
            is_first, self._is_closed = not self._is_closed, True
            for ticket in self._tickets:
                self._scheduler.end(ticket, UnavailableError("this version was stopped"))
            self._has_work.notify_all()
        self._notices.tell()
        for thread in self._threads:
            thread.join()
        if is_first:
            with self._lock:
                # The device's streams go to the next engine, and must not bring it images for this one.
                self._rows_left.wait_for(lambda: not self._num_uploading)
            self._executor.close()

    # A request comes in.

    def admit(self, request: Request, caller: Caller | None = None) -> RowTicket:
        """Check a request, upload its images and queue its rows; see the protocol."""
        route = self._route(request.terms)
        check_images(request.images_BHWC, self.plan.task, self._answers.num_slots)
        now_s = self._clock()
        check_deadline(request, now_s)
        with self._lock:
            if self._is_stopping:
                raise UnavailableError("this version is stopping and takes no new requests")
            slots = self._answers.take(len(request.images_BHWC))
            ticket = RowTicket(
                self, request=request, route=route, slots=slots, admitted_s=now_s, notices=self._notices, caller=caller
            )
            self._tickets.add(ticket)
            self._num_uploading += 1
        try:
            self._executor.upload(slots, request.images_BHWC)
            self._upload_fault = ""
        except BaseException as error:
            if isinstance(error, MemberError):
                self._upload_fault = f"no image can be uploaded: {error}"
            self.release(ticket)
            raise
        finally:
            with self._lock:
                self._num_uploading -= 1
                if self._is_closed:
                    self._rows_left.notify_all()
                if not ticket.is_closed:
                    self._scheduler.enqueue(ticket)
                    self._has_work.notify()
        return ticket

    # A lane's thread looks for a batch, runs it and settles it.

    def _serve(self, lane: Lane) -> None:
        while (batch := self._next_batch()) is not None:
            self._run(lane, batch)

    def _next_batch(self) -> Batch | None:
        """Wait for a batch to run; None once the engine is closed."""
        while True:
            with self._lock:
                now_s = self._clock()
                batch = self._scheduler.take(now_s)
                if batch is not None and self._scheduler.has_ready(now_s):
                    self._has_work.notify()
                is_closed = self._is_closed
                # Rows whose time was up have been answered or failed: their callers come first.
                if batch is None and not is_closed and not self._notices:
                    ready_s = self._scheduler.next_ready_s()
                    self._has_work.wait(None if ready_s == np.inf else max(0.0, ready_s - now_s))
            self._notices.tell()
            if batch is not None or is_closed:
                return batch

    def _run(self, lane: Lane, batch: Batch) -> None:
        """Run a batch and settle it: the boundary at which anything unforeseen fails the rows it holds."""
        try:
            self._run_and_settle(lane, batch)
        except Exception:  # noqa: BLE001 - the one boundary of a working thread
            _log.exception("a batch of member %r failed", self.plan.members[batch.member].name)
            with self._lock:
                self._scheduler.fail(batch, np.ones(batch.rows, dtype=np.bool_))
                self._finish(batch)
        self._notices.tell()

    def _run_and_settle(self, lane: Lane, batch: Batch) -> None:
        name = self.plan.members[batch.member].name
        started_s = self._clock()
        outcome = run_batch(lane, self.plan, batch.member, batch.load, self.config.max_queue_rows)
        now_s = self._clock()
        queue_s_B = np.maximum(started_s - batch.queued_s_B, 0.0)
        self._observer.batch_ran(name, queue_s_B.tolist(), now_s - started_s)
        verdicts, failed_B = outcome.verdicts, outcome.failed_B
        self._tell_gated(batch, np.where(verdicts.usable_B, verdicts.confidence_B, np.float32(np.nan)), failed_B)
        with self._lock:
            statistics = self._scheduler.statistics
            statistics.ran(batch.member, batch.rows, float(queue_s_B.sum()), now_s - started_s, outcome.fault)
            if failed_B is not None:
                statistics.failed(batch.member)
                self._scheduler.fail(batch, failed_B)
            self._scheduler.settle(batch, verdicts, now_s)
            # Before anybody whom this answers can send more rows, which may need these slots.
            self._finish(batch)

    def _finish(self, batch: Batch) -> None:
        self._scheduler.finish(batch)
        self._rows_left.notify_all()

    def _tell_gated(self, batch: Batch, rated_B: FloatArray, failed_B: BoolArray | None) -> None:
        told_B = batch.is_gated_B if failed_B is None else batch.is_gated_B & ~failed_B
        if told_B.all():
            self._observer.rows_gated(batch.stage_B.tolist(), rated_B.tolist())
        elif told_B.any():
            self._observer.rows_gated(batch.stage_B[told_B].tolist(), rated_B[told_B].tolist())

    # A request waits, and goes out.

    def answer(self, ticket: RowTicket) -> Reply:
        """Sleep until the ticket is closed or its deadline comes, as the lanes do the work, and read its answers."""
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
        self._notices.tell()

    def _reply(self, ticket: RowTicket) -> Reply:
        answers = self._answers
        slot_B: IntArray = np.array(ticket.slots, dtype=np.int64)
        exit_stage_B, reason_B = answers.stage_R[slot_B], answers.reason_R[slot_B]
        probabilities_BK = answers.probabilities_RK[slot_B]
        reply = Reply(
            probabilities_BK=probabilities_BK if ticket.request.wants_probabilities else probabilities_BK[:, :0],
            label_B=answers.label_R[slot_B],
            confidence_B=answers.confidence_R[slot_B],
            exit_stage_B=exit_stage_B,
            exit_reason_B=reason_B,
            # Members speak in the route's order, so a row has paid for all up to where it left.
            flops_B=np.cumsum(ticket.route.flops, dtype=np.int64)[exit_stage_B],
            policy=ticket.route.policy,
            certified=self._is_certified
            and ticket.route.is_certified
            and not (ticket.answers_early and ExitReason.DEADLINE in reason_B),
        )
        self._observer.request_answered(reply, (answers.exited_s_R[slot_B] - ticket.admitted_s).tolist())
        return reply

    def release(self, ticket: RowTicket) -> None:
        """Free a ticket's slots; what is still open of it is abandoned."""
        with self._lock:
            self._scheduler.end(ticket, AbandonedError("the request was given up"))
            self._scheduler.release(ticket)
            self._tickets.discard(ticket)
            self._rows_left.notify_all()
        self._notices.tell()

    def abandon(self, ticket: RowTicket) -> None:
        """Take a ticket's rows out, as its caller has gone."""
        with self._lock:
            self._scheduler.end(ticket, AbandonedError("the caller cancelled the request or has gone"))
        self._notices.tell()

"""The seams of the engine: what the RPC side sees, what a backend provides, and who watches."""
# Shapes: B rows, K classes, HWC image.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cascade_serve.core.arrays import FloatArray, ImageArray
from cascade_serve.core.plan import Fingerprint, Plan
from cascade_serve.core.request import Reply, Request

MAX_THREADS = 1024
"""Of an engine's workers, and of a run: far above what helps, and below what exhausts a system as it starts them."""

_MAX_QUEUE_ROWS = 1 << 24


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How rows are batched and bounded.

    Attributes:
        workers: batches that run at the same time, each on a set of sessions of its own.
        threads_per_worker: threads inside one member's run.
        max_batch_size: rows of one run of a member, at most; fewer where its profile in the plan says that more do not
            pay.
        max_queue_delay_s: seconds a row may wait for a batch to fill, where the member's profile, if it has one, says
            that a fuller batch pays; 0 never waits.
        max_queue_rows: rows in the engine at the same time, waiting or running.
        worker_niceness: by how much the threads that do nothing but run members stand back where threads that speak
            with clients want the processor, on Linux; 0 not at all, 19 most. The torch engine's threads hardly compute,
            and keep their place.
    """

    workers: int = 1
    threads_per_worker: int = 1
    max_batch_size: int = 32
    max_queue_delay_s: float = 0.0
    max_queue_rows: int = 1024
    worker_niceness: int = 5

    def __post_init__(self) -> None:
        for field in ("workers", "threads_per_worker", "max_batch_size", "max_queue_rows"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: got {getattr(self, field)}; must be at least 1")
        for field, most in (
            ("workers", MAX_THREADS),
            ("threads_per_worker", MAX_THREADS),
            ("max_queue_rows", _MAX_QUEUE_ROWS),
        ):
            if getattr(self, field) > most:
                raise ValueError(f"{field}: got {getattr(self, field)}; must be at most {most}")
        if not 0 <= self.max_queue_delay_s < 60:
            raise ValueError(f"max_queue_delay_s: got {self.max_queue_delay_s}; must be at least 0 and under 60")
        if not 0 <= self.worker_niceness <= 19:
            raise ValueError(f"worker_niceness: got {self.worker_niceness}; must be between 0 and 19")
        if self.max_queue_rows < self.max_batch_size:
            raise ValueError(
                f"max_queue_rows: got {self.max_queue_rows}; must be at least max_batch_size, {self.max_batch_size}"
            )

    @property
    def batch_buckets(self) -> tuple[int, ...]:
        """Batch sizes that are warmed up: 1, 2, 4, ... and ``max_batch_size``."""
        powers = [1 << power for power in range(self.max_batch_size.bit_length()) if 1 << power < self.max_batch_size]
        return (*powers, self.max_batch_size)


class Ticket(Protocol):
    """One request in the engine. Every ticket ends in a reply or an error."""

    @property
    def is_closed(self) -> bool:
        """The answer or the error is there."""
        ...

    @property
    def due_s(self) -> float:
        """When :meth:`expire` shall be called, on the engine's clock; infinity where there is no deadline."""
        ...

    def result(self) -> Reply:
        """Give the answer, once it is there; call once. A closed ticket's comes at once.

        Raises:
            LateError: the deadline passed.
            AbandonedError: :meth:`cancel` was called.
            UnavailableError: the engine was closed.
            MemberError: a row got no usable prediction.
        """
        ...

    def expire(self) -> None:
        """End the request if its time is up: well where the caller takes an early answer and there is one, else badly.

        From any thread, at any time; who waits in :meth:`result` need not call it.
        """
        ...

    def cancel(self) -> None:
        """Take the request's rows out; from any thread, at any time. After the end it does nothing."""
        ...


class Caller(Protocol):
    """Who waits for tickets, for many at a time. Hashable by identity."""

    def hear(self, tickets: Sequence[Ticket]) -> None:
        """Tickets of this caller's have been closed, each is told of once; on any thread, which holds no lock.

        Must be quick, and must not raise. A ticket may be heard of before :meth:`Engine.admit` has returned it.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class MemberStatistics:
    """Counts and times of one member since the engine was made.

    Attributes:
        rows: rows it ran.
        batches: runs; retries row by row count each.
        failures: runs that raised.
        queue_s: seconds its rows waited for it, summed over rows.
        compute_s: seconds of its runs, summed over runs.
        batch_sizes: rows in a run → (runs, seconds of these runs).
        last_run_s: unix time of its latest run; 0 before the first.
    """

    rows: int = 0
    batches: int = 0
    failures: int = 0
    queue_s: float = 0.0
    compute_s: float = 0.0
    batch_sizes: dict[int, tuple[int, float]]
    last_run_s: float = 0.0


class Engine(Protocol):
    """Answers requests for one plan."""

    @property
    def plan(self) -> Plan:
        """The plan it serves."""
        ...

    @property
    def config(self) -> EngineConfig:
        """Its bounds."""
        ...

    @property
    def fingerprint(self) -> Fingerprint:
        """What computes its answers."""
        ...

    @property
    def fault(self) -> str:
        """Why requests fail that are not to blame, such as a device that is lost; empty where none does.

        It holds until a request has been answered by what failed.
        """
        ...

    @property
    def rows_in_flight(self) -> int:
        """Rows that hold a slot: admitted, and not yet answered and given back."""
        ...

    @property
    def rows_running(self) -> int:
        """Rows of these that are in a running batch; the others wait."""
        ...

    def admit(self, request: Request, caller: Caller | None = None) -> Ticket:
        """Check a request, copy its images into the slab and queue its rows.

        Args:
            request: what is asked.
            caller: hears that the ticket is closed; None where somebody waits in :meth:`Ticket.result`.

        Raises:
            InvalidRequestError: the images or terms don't fit the plan, or there are more rows than the slab holds.
            NotFoundError: unknown policy.
            OverloadedError: too few slots are free.
            LateError: the deadline has passed already.
            UnavailableError: the engine is draining or closed.
        """
        ...

    def warm_up(self) -> None:
        """Run every member at every batch bucket, so that the first request meets no first-time cost."""
        ...

    def statistics(self) -> dict[str, MemberStatistics]:
        """Member name → its statistics."""
        ...

    def drain(self, timeout_s: float) -> bool:
        """Admit nothing more and wait for the rows in flight; tell whether all were answered in time."""
        ...

    def close(self) -> None:
        """Fail what is left and free the sessions. May be called twice."""
        ...


class Runner(Protocol):
    """A backend: one set of sessions, used by one thread at a time."""

    def run(self, member: int, images_BHWC: ImageArray) -> FloatArray:
        """Run one member of the plan.

        Args:
            member: its index in the plan.
            images_BHWC: uint8 [B, H, W, C], C-contiguous; 1 to ``max_batch_size`` rows.

        Returns:
            float32 logits [B, K].

        Raises:
            MemberError: the backend failed.
        """
        ...


class Observer(Protocol):
    """Who watches an engine. Called on the hot path, from any worker's thread: must be quick, and must not raise."""

    def batch_ran(self, member: str, queue_s_B: Sequence[float], compute_s: float) -> None:
        """A member ran over a batch.

        Args:
            member: its name.
            queue_s_B: seconds each row waited in the member's queue.
            compute_s: seconds of the run.
        """
        ...

    def rows_gated(self, stage_B: Sequence[int], confidence_B: Sequence[float]) -> None:
        """Rows reached a gate: their stages (0-based) and confidences there; NaN where the member had no answer."""
        ...

    def request_answered(self, reply: Reply, row_s_B: Sequence[float]) -> None:
        """A request was answered; ``row_s_B`` is each row's seconds from admission to exit."""
        ...

"""Queues of segments: rows of one request that wait at the same stage, handled together however many they are."""
# Shapes: N rows of a segment.

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cascade_serve.core.arrays import IntArray
from cascade_serve.engine.batching import BatchLimits
from cascade_serve.engine.queue import MAX_PASSES, rank_of
from cascade_serve.engine.ticket import RowTicket


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows of one request, in one queue or batch.

    Attributes:
        ticket: the request's.
        stage: where they stand in its route, 0-based.
        slot_N: int64 [N], their slots.
        queued_s: when they were put into this queue, on the engine's clock.
    """

    ticket: RowTicket
    stage: int
    slot_N: IntArray
    queued_s: float

    @property
    def member(self) -> int:
        """Index of the member that they wait for."""
        return self.ticket.route.members[self.stage]


_Key = tuple[int, int, int]
"""Rank, age of the request, age within it: no two are equal."""


class _MemberQueue:
    __slots__ = ("heap", "limits", "passes", "rows")

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self.heap: list[tuple[_Key, Segment]] = []
        self.rows = 0
        self.passes = 0


class SegmentQueues:
    """One queue a member, over all policies and stages. Not thread-safe: the engine's lock guards it.

    Which is ready, and what runs next, is decided as in :class:`cascade_serve.engine.queue.MemberQueues`.

    Args:
        limits: of each member's batches.
        max_queue_delay_s: seconds that a row may wait for its batch to fill.
    """

    def __init__(self, limits: Sequence[BatchLimits], max_queue_delay_s: float) -> None:
        self._queues = [_MemberQueue(of_member) for of_member in limits]
        self._max_queue_delay_s = max_queue_delay_s
        self._ages = itertools.count()

    def __len__(self) -> int:
        """Count the rows that wait."""
        return sum(queue.rows for queue in self._queues)

    def put(self, segment: Segment) -> None:
        """Let rows wait for their member."""
        ticket = segment.ticket
        key = (rank_of(ticket.request.terms.priority), ticket.sequence, next(self._ages))
        self._push(self._queues[segment.member], key, segment)

    def remove(self, ticket: RowTicket) -> None:
        """Take a request's rows out of whatever queues they are in."""
        for queue in self._queues:
            kept = [entry for entry in queue.heap if entry[1].ticket is not ticket]
            if len(kept) < len(queue.heap):
                heapq.heapify(kept)
                queue.heap = kept
                queue.rows = sum(len(segment.slot_N) for _, segment in kept)

    def has_ready(self, now_s: float) -> bool:
        """Tell whether a batch may run now."""
        return any(self._is_ready(queue, now_s) for queue in self._queues)

    def next_ready_s(self) -> float:
        """Tell when the first waiting row will have waited long enough; infinity when none waits."""
        return self._max_queue_delay_s + min(
            (queue.heap[0][1].queued_s for queue in self._queues if queue.heap), default=math.inf
        )

    def take(self, now_s: float) -> list[Segment]:
        """Take out what runs next: segments for one member, 1 to its ``max_rows`` rows; none when nothing is ready."""
        ready = [queue for queue in self._queues if self._is_ready(queue, now_s)]
        if not ready:
            return []
        chosen = min(ready, key=self._urgency)
        first = chosen.heap[0][0][:2]
        for queue in ready:
            queue.passes += queue.heap[0][0][:2] < first
        chosen.passes = 0
        return self._pop(chosen)

    def _pop(self, queue: _MemberQueue) -> list[Segment]:
        taken = []
        room = queue.limits.max_rows
        while room and queue.heap:
            key, segment = heapq.heappop(queue.heap)
            queue.rows -= len(segment.slot_N)
            if len(segment.slot_N) > room:
                self._push(queue, key, replace(segment, slot_N=segment.slot_N[room:]))
                segment = replace(segment, slot_N=segment.slot_N[:room])
            room -= len(segment.slot_N)
            taken.append(segment)
        return taken

    @staticmethod
    def _push(queue: _MemberQueue, key: _Key, segment: Segment) -> None:
        heapq.heappush(queue.heap, (key, segment))
        queue.rows += len(segment.slot_N)

    def _is_ready(self, queue: _MemberQueue, now_s: float) -> bool:
        if not queue.heap:
            return False
        return queue.rows >= queue.limits.full_rows or now_s - queue.heap[0][1].queued_s >= self._max_queue_delay_s

    def _urgency(self, queue: _MemberQueue) -> tuple[int, int, int, int]:
        (rank, sequence, _), first = queue.heap[0]
        if queue.passes >= MAX_PASSES:
            return (rank, 0, sequence, -first.stage)
        return (rank, 1 if queue.rows >= queue.limits.ample_rows else 2, sequence, -first.stage)

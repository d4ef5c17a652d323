"""The member queues: which rows wait for which member, and which batch runs next."""

import heapq
import math
from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple

from cascade_serve.engine.batching import BatchLimits

MAX_PASSES = 1
"""A ready queue that was passed over this often, in favour of younger rows, goes next; of several, the oldest row."""


class Entry(NamedTuple):
    """One row's place in a queue; entries sort by priority, then age.

    Attributes:
        rank: smaller goes first.
        sequence: of its request's admission: smaller is older, whatever the stage.
        slot: the row's, in the slab.
        stage: 0-based, in the row's route.
        queued_s: when it was put into this queue, on the engine's clock.
    """

    rank: int
    sequence: int
    slot: int
    stage: int
    queued_s: float


def rank_of(priority: int) -> int:
    """Turn a request's priority (0 is lowest, then 1, 2, ... from the highest down) into a rank."""
    return priority if priority > 0 else 2**32


class _MemberQueue:
    __slots__ = ("heap", "limits", "member", "passes")

    def __init__(self, member: int, limits: BatchLimits) -> None:
        self.member = member
        self.limits = limits
        self.heap: list[Entry] = []
        self.passes = 0


class MemberQueues:
    """One queue a member, over all policies and stages. Not thread-safe: the engine's lock guards it.

    A queue is ready when so many rows wait that more would not run faster, or its first row has waited for
    ``max_queue_delay_s``. What runs next, among the ready: the highest priority; then a queue passed over too often;
    then an ample batch; of several, the oldest row, deeper stages first. So where large batches save little, rows that
    were begun are finished before younger ones begin; where they save much, the few that go on gather meanwhile.

    No stage starves, however few rows come to it or leave before it: between batches of older rows, at most
    ``MAX_PASSES`` of younger ones of the same priority go before the first row of a ready queue, and one more for each
    other queue that waited as long. Giving way to older rows is no pass: a cheap first stage would otherwise go on
    starting rows that a dear second one, with its smaller batches, can't finish.

    Args:
        limits: of each member's batches.
        max_queue_delay_s: seconds that a row may wait for its batch to fill.
    """

    def __init__(self, limits: Sequence[BatchLimits], max_queue_delay_s: float) -> None:
        self._queues = [_MemberQueue(member, of_member) for member, of_member in enumerate(limits)]
        self._max_queue_delay_s = max_queue_delay_s

    def __len__(self) -> int:
        """Count the rows that wait, once for each queue they are in."""
        return sum(len(queue.heap) for queue in self._queues)

    def put(self, member: int, entries: Iterable[Entry]) -> None:
        """Let rows wait for a member."""
        heap = self._queues[member].heap
        for entry in entries:
            heapq.heappush(heap, entry)

    def remove(self, slots: Container[int]) -> None:
        """Take rows out of whatever queues they are in."""
        for queue in self._queues:
            kept = [entry for entry in queue.heap if entry.slot not in slots]
            if len(kept) < len(queue.heap):
                heapq.heapify(kept)
                queue.heap = kept

    def has_ready(self, now_s: float) -> bool:
        """Tell whether a batch may run now."""
        return bool(self._ready(now_s))

    def has_waiting(self) -> bool:
        """Tell whether rows wait in some queue."""
        for queue in self._queues:  # noqa: SIM110 - any() would make a generator, and this runs for each request
            if queue.heap:
                return True
        return False

    def next_ready_s(self) -> float:
        """Tell when the first waiting row will have waited long enough; infinity when none waits."""
        return min((queue.heap[0].queued_s for queue in self._queues if queue.heap), default=math.inf) + (
            self._max_queue_delay_s
        )

    def take(self, now_s: float) -> tuple[int, list[Entry]] | None:
        """Take out what runs next: a member, and 1 to its ``max_rows`` rows for it; None when nothing is ready."""
        ready = self._ready(now_s)
        if not ready:
            return None
        chosen = ready[0] if len(ready) == 1 else min(ready, key=self._urgency)
        first = chosen.heap[0]
        for queue in ready:
            # An entry's rank and sequence stand first.
            queue.passes += queue.heap[0] < first
        chosen.passes = 0
        count = min(len(chosen.heap), chosen.limits.max_rows)
        return chosen.member, [heapq.heappop(chosen.heap) for _ in range(count)]

    def _ready(self, now_s: float) -> list[_MemberQueue]:
        delay_s = self._max_queue_delay_s
        return [
            queue
            for queue in self._queues
            if (heap := queue.heap) and (len(heap) >= queue.limits.full_rows or now_s - heap[0].queued_s >= delay_s)
        ]

    def _urgency(self, queue: _MemberQueue) -> tuple[int, int, int, int]:
        first = queue.heap[0]
        if queue.passes >= MAX_PASSES:
            return (first.rank, 0, first.sequence, -first.stage)
        is_ample = len(queue.heap) >= queue.limits.ample_rows
        return (first.rank, 1 if is_ample else 2, first.sequence, -first.stage)

"""Who holds each slot: the open rows of each request, and the slots that a running batch still needs."""

from collections.abc import Iterable, Sequence

from cascade_serve.engine.ticket import RowTicket


class RowLedger:
    """Bookkeeping by slot. Not thread-safe: the engine's lock guards it.

    A row is *open* from admission until it has its answer or its request has ended. Its slot outlives it: until the
    answer has been read, and no batch that holds the slot is running any more.

    Args:
        num_slots: of the slab.
    """

    def __init__(self, num_slots: int) -> None:
        self._owners: list[RowTicket | None] = [None] * num_slots
        self._num_running = [0] * num_slots
        self._num_to_come = [0] * num_slots
        self._released: set[int] = set()

    @property
    def num_running(self) -> int:
        """Count the rows that are in a running batch."""
        return sum(running > 0 for running in self._num_running)

    def open(self, ticket: RowTicket, num_queues: int) -> None:
        """Open a request's rows; each waits in ``num_queues`` queues at once."""
        for slot in ticket.slots:
            self._owners[slot] = ticket
            self._num_to_come[slot] = num_queues

    def owner(self, slot: int) -> RowTicket | None:
        """Give the request of an open row; None when the row isn't open any more."""
        return self._owners[slot]

    def open_slots(self, ticket: RowTicket) -> list[int]:
        """Give the slots of a request's open rows."""
        return [slot for slot in ticket.slots if self._owners[slot] is ticket]

    def close(self, slots: Iterable[int]) -> None:
        """Close rows, as they have their answers or their request has ended."""
        for slot in slots:
            self._owners[slot] = None

    def start(self, slots: Iterable[int]) -> None:
        """A batch with these rows begins."""
        for slot in slots:
            self._num_running[slot] += 1

    def spoken(self, slot: int) -> RowTicket | None:
        """A member has spoken on a row: give its request if the row is open and no other member is to be heard."""
        self._num_to_come[slot] -= 1
        return self._owners[slot] if self._num_to_come[slot] == 0 else None

    def defer(self, slot: int) -> None:
        """A row goes on to one more queue."""
        self._num_to_come[slot] = 1

    def finish(self, slots: Sequence[int]) -> list[int]:
        """A batch with these rows has ended; gives the slots that nobody needs any more."""
        for slot in slots:
            self._num_running[slot] -= 1
        if not self._released:
            return []
        freed = [slot for slot in slots if slot in self._released and self._num_running[slot] == 0]
        self._released.difference_update(freed)
        return freed

    def release(self, slots: Sequence[int]) -> list[int]:
        """The request's thread needs these slots no more; gives those that nobody needs any more."""
        freed = [slot for slot in slots if self._num_running[slot] == 0]
        if len(freed) < len(slots):
            self._released.update(slot for slot in slots if self._num_running[slot] > 0)
        return freed

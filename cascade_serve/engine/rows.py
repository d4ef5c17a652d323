"""Each row on its way: whose it is, what was spent on it, and which slots a running batch still needs."""

from collections.abc import Iterable, Sequence

from cascade_serve.engine.ticket import RowTicket


class Row:
    """One row, from admission until its slot is free again.

    Attributes:
        owner: its request, for as long as the row is open: until it has its answer or the request has ended.
        position: in its request, 0-based.
        flops: spent on it so far.
        ran: the stages that have run for it, a bit each.
        usable: those of them whose member gave a finite answer.
    """

    __slots__ = ("flops", "is_released", "num_running", "num_to_come", "owner", "position", "ran", "usable")

    def __init__(self, owner: RowTicket, position: int, num_to_come: int) -> None:
        self.owner: RowTicket | None = owner
        self.position = position
        self.num_to_come = num_to_come
        self.num_running = 0
        self.is_released = False
        self.flops = self.ran = self.usable = 0

    def hear(self, stage: int, flops: int, *, is_usable: bool) -> None:
        """A member has spoken on it, or has failed."""
        self.num_to_come -= 1
        self.flops += flops
        self.ran |= 1 << stage
        if is_usable:
            self.usable |= 1 << stage


class RowLedger:
    """The rows of all slots. Not thread-safe: the engine's lock guards it.

    A slot outlives its open row: until no batch that holds it is running any more.

    Args:
        num_slots: of the slab.

    Attributes:
        num_running: rows that are in a running batch.
    """

    def __init__(self, num_slots: int) -> None:
        self._rows: list[Row | None] = [None] * num_slots
        self.num_running = 0

    def open(self, ticket: RowTicket, num_queues: int) -> None:
        """Open a request's rows; each waits in ``num_queues`` queues at once."""
        for position, slot in enumerate(ticket.slots):
            self._rows[slot] = Row(ticket, position, num_queues)

    def row(self, slot: int) -> Row:
        """Give the row of a slot that is held."""
        row = self._rows[slot]
        assert row is not None
        return row

    def open_slots(self, ticket: RowTicket) -> list[int]:
        """Give the slots of a request's open rows."""
        return [slot for slot in ticket.slots if (row := self._rows[slot]) is not None and row.owner is ticket]

    def close(self, slots: Iterable[int]) -> None:
        """Close rows whose request has ended."""
        for slot in slots:
            self.row(slot).owner = None

    def start(self, rows: Iterable[Row]) -> None:
        """A batch with these rows begins."""
        for row in rows:
            self.num_running += row.num_running == 0
            row.num_running += 1

    def finish(self, slots: Sequence[int], rows: Sequence[Row]) -> list[int]:
        """A batch with these rows has ended; gives the slots that nobody needs any more."""
        freed = []
        for slot, row in zip(slots, rows, strict=True):
            row.num_running -= 1
            if row.num_running == 0:
                self.num_running -= 1
                if row.is_released:
                    self._rows[slot] = None
                    freed.append(slot)
        return freed

    def release(self, slots: Sequence[int]) -> list[int]:
        """The request needs these slots no more; gives those that nobody needs any more."""
        freed = []
        for slot in slots:
            row = self._rows[slot]
            if row is None or row.num_running == 0:
                self._rows[slot] = None
                freed.append(slot)
            else:
                row.is_released = True
        return freed

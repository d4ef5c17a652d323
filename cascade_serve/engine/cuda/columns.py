"""Columns of different types in one block of memory, so that a batch's terms or verdicts cross the bus in one copy."""
# Shapes: B rows of a bucket.

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

Columns = Mapping[str, Tensor]

INPUT_COLUMNS: dict[str, torch.dtype] = {
    "slot": torch.int64,
    "threshold": torch.float32,
    "is_first": torch.bool,
    "is_last": torch.bool,
}
"""What a batch is told of each row: its slot; its own threshold at this stage; whether its first member speaks, so that
what an earlier row left in the slot is forgotten; whether its route, by its policy or its cap, ends here."""

OUTPUT_COLUMNS: dict[str, torch.dtype] = {
    "label": torch.int64,
    "confidence": torch.float32,
    "usable": torch.bool,
    "confident": torch.bool,
    "exits": torch.bool,
    "fails": torch.bool,
}
"""What a batch says of each row; see :class:`~cascade_serve.engine.cuda.rules.Judgement`."""


class Block:
    """Columns of equal length, one after the other, widest elements first, so that each is aligned.

    Args:
        columns: name → element type, from wide to narrow.
        rows: B, elements of each.
        device: where it lies.
        pin_memory: on the host, where a copy engine can read and write it without the processor.

    Attributes:
        data: uint8, all of it.
        columns: name → [B].
    """

    def __init__(
        self, columns: Mapping[str, torch.dtype], rows: int, device: torch.device, *, pin_memory: bool = False
    ) -> None:
        widths = [dtype.itemsize for dtype in columns.values()]
        assert widths == sorted(widths, reverse=True), "a narrow column would leave the next one unaligned"
        self.data = torch.zeros(sum(widths) * rows, dtype=torch.uint8, device=device, pin_memory=pin_memory)
        self.columns: dict[str, Tensor] = {}
        start = 0
        for name, dtype in columns.items():
            end = start + dtype.itemsize * rows
            self.columns[name] = self.data[start:end].view(dtype)
            start = end

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Show the columns of a block on the host to numpy; the memory is shared."""
        return {name: column.numpy() for name, column in self.columns.items()}

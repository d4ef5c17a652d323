"""Several optimisers that look and checkpoint like one."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer


class JointOptimizer(Optimizer):
    """Optimisers of different kinds on different parameters of one model, stepped together.

    Its groups are the parts' own, so what sets a rate here sets it there; state is kept by the parts.

    Args:
        parts: at least one; no parameter is in two of them.
    """

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = tuple(parts)

    # Optimizer.step is declared twice, without and with a closure that gives a loss; ours takes none.
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step each part.

        Raises:
            ValueError: a closure is given: parts would evaluate it one after the other, on weights between two steps.
        """
        if closure is not None:
            raise ValueError("closure: got one; a joint optimizer takes none")
        with torch.no_grad():
            for part in self.parts:
                part.step()

    def state_dict(self) -> dict[str, Any]:
        """Give each part's state, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over each part's state.

        Raises:
            ValueError: there are not as many parts, or they have other groups.
        """
        states = state_dict["parts"]
        if len(states) != len(self.parts):
            raise ValueError(f"optimizer state: got {len(states)} parts; must be {len(self.parts)}")
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
        # Loading gives the parts new groups.
        self.param_groups = [group for part in self.parts for group in part.param_groups]

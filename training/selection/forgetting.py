"""Forgetting events: how often an image was learned and lost again during the proxy's training. Needs labels."""
# Shapes: N images, B rows of a batch.

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cascade_serve.core.arrays import FloatArray, IntArray
from training.errors import SelectionError

_NEVER, _WRONG, _RIGHT = -1, 0, 1


class ForgettingMeter:
    """Counts, while a model trains, how often each image goes from right to wrong between consecutive presentations.

    Source: Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning" (ICLR 2019,
    arXiv 1812.05159), section 3, as used by Coleman et al. (arXiv 1906.11829, section 2). It observes the loop's
    batches as they are trained on, augmented, and never makes the device wait.

    Args:
        ids_N: int64 [N], ids of the training images, each once, in any order; the scores keep that order.

    Raises:
        SelectionError: there are none, or an id stands twice.
    """

    def __init__(self, ids_N: IntArray) -> None:
        if len(ids_N) == 0 or len(np.unique(ids_N)) != len(ids_N):
            raise SelectionError(f"ids: got {len(ids_N)}, {len(np.unique(ids_N))} of them different; must be unique")
        self._order_N = np.argsort(ids_N)
        self._state = {
            "ids": torch.from_numpy(ids_N[self._order_N].astype(np.int64)),
            "last": torch.full((len(ids_N),), _NEVER, dtype=torch.int8),
            "is_learned": torch.zeros(len(ids_N), dtype=torch.bool),
            "events": torch.zeros(len(ids_N), dtype=torch.int32),
            "num_strangers": torch.zeros((), dtype=torch.int64),
        }

    def observe(self, ids_B: Tensor, losses_B: Tensor, correct_B: Tensor) -> None:
        """Hear of a trained batch.

        Args:
            ids_B: int64 [B], each id at most once; an unknown one makes :meth:`scores` fail, later, because asking
                here would make a GPU wait.
            losses_B: not used.
            correct_B: bool [B], whether each image was right when it was trained on.
        """
        del losses_B
        if self._state["ids"].device != ids_B.device:
            self._state = {name: tensor.to(ids_B.device) for name, tensor in self._state.items()}
        state = self._state
        places_B = torch.searchsorted(state["ids"], ids_B).clamp_(max=len(state["ids"]) - 1)
        state["num_strangers"] += (state["ids"][places_B] != ids_B).sum()
        state["events"][places_B] += (state["last"][places_B] == _RIGHT) & ~correct_B
        state["is_learned"][places_B] |= correct_B
        state["last"][places_B] = torch.where(correct_B, _RIGHT, _WRONG).to(torch.int8)

    @property
    def num_never_presented(self) -> int:
        """Images that were not in any batch so far."""
        return int((self._state["last"] == _NEVER).sum())

    def scores(self) -> FloatArray:
        """Give float32 [N], higher is kept first, in the order of the ids given.

        An image that was never right counts as infinite (Toneva et al.). One that was never presented, as a proxy on
        reduced data may leave some, is unknown rather than hard or easy: it gets the (lower) median of the others.

        Raises:
            SelectionError: no image was presented, or some batch had ids that are not among the training images'.
        """
        state = {name: tensor.cpu() for name, tensor in self._state.items()}
        strangers = int(state["num_strangers"])
        if strangers:
            raise SelectionError(f"forgetting_events: got {strangers} rows with other ids than the {len(state['ids'])}")
        is_presented_N = state["last"] != _NEVER
        if not is_presented_N.any():
            raise SelectionError("forgetting_events: got no trained batch; the training must call observe()")
        sorted_N = torch.where(state["is_learned"], state["events"].float(), torch.inf)
        sorted_N[~is_presented_N] = sorted_N[is_presented_N].median()
        scores_N = np.empty(len(sorted_N), dtype=np.float32)
        scores_N[self._order_N] = sorted_N.numpy()
        return scores_N

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run needs: tensors on the CPU."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self._state.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up such a state.

        Raises:
            SelectionError: it is of other images.
        """
        if set(state) != set(self._state) or not torch.equal(state["ids"].cpu(), self._state["ids"].cpu()):
            raise SelectionError("forgetting_events: state: is of other images than these; must have the same ids")
        device = self._state["ids"].device
        self._state = {name: tensor.to(device, copy=True) for name, tensor in state.items()}

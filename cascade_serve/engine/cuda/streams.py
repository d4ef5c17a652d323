"""Streams that one engine alone holds: torch hands out the same 32 of a device again and again."""

import threading

import torch

from cascade_serve.errors import ConfigError

_POOL_SIZE = 32
"""Of torch, for each device and priority; what it gives comes round in turn, whether or not it is in use."""
_lock = threading.Lock()
_held: set[torch.cuda.Stream] = set()


class Streams:
    """Takes streams for one engine, and gives them back together.

    With two owners a stream would be wrong wherever one of them captures: the other's launches would be recorded in
    place of being run. An engine that is loaded while others serve must therefore never meet their streams.

    Args:
        device: whose.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._taken: list[torch.cuda.Stream] = []

    def take(self) -> torch.cuda.Stream:
        """Take a stream that no engine of this process holds.

        Raises:
            ConfigError: there is none.
        """
        with _lock:
            # Twice round, as others of the process may ask torch for streams meanwhile.
            for _ in range(2 * _POOL_SIZE):
                stream = torch.cuda.Stream(self._device)
                if stream not in _held:
                    _held.add(stream)
                    self._taken.append(stream)
                    return stream
        raise ConfigError(
            f"workers: no stream is left on {self._device}: all engines of a process, those that drain among them, have"
            f" {_POOL_SIZE} together, one a worker and one an engine"
        )

    def give_back(self) -> None:
        """Give back what was taken; nothing may be launched on it any more."""
        with _lock:
            _held.difference_update(self._taken)
        self._taken.clear()

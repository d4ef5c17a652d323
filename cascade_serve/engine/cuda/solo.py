"""A member alone on a device, so that it can be timed: its network as the engine runs it, without rows and gates."""
# Shapes: B rows of a batch, HWC image.

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from cascade_serve.core.arrays import ImageArray
from cascade_serve.engine.cuda.graphs import capture, forbid_tf32, on_stream
from cascade_serve.engine.cuda.network import find_device, load_network
from cascade_serve.errors import ConfigError, MemberError


class SoloDevice:
    """A device on which members run one at a time: by CUDA graphs on CUDA, by plain calls on a CPU.

    For a process without engines, which it would disturb: its stream is one of torch's, which they may hold; and TF32
    on CUDA, and the number of threads on a CPU, are set for the process.

    Args:
        name: ``cpu`` or ``cuda:INDEX``.
        threads: inside one run on a CPU.

    Raises:
        ConfigError: the machine has no such device.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._device = find_device(name)
        self._is_cuda = self._device.type == "cuda"
        if self._is_cuda:
            forbid_tf32()
            self._stream = torch.cuda.Stream(self._device)
            # For all graphs: they are replayed one after the other, and none leaves anything behind.
            self._pool = torch.cuda.graph_pool_handle()
        else:
            torch.set_num_threads(threads)

    @property
    def gpu(self) -> str | None:
        """What the GPU is called; None on a CPU."""
        return torch.cuda.get_device_name(self._device) if self._is_cuda else None

    def load(self, folder: Path, precision: str) -> Callable[[ImageArray], Callable[[], None]]:
        """Load a member's network onto the device.

        Args:
            folder: holds its card and weights.
            precision: the member's.

        Returns:
            makes the member ready for images, uint8 [B, H, W, C] at the task's size, which are brought to the device,
            and gives what runs it over them once and comes back when the device is done. Large batches should be made
            ready first: what their graphs take is then enough for small ones. Both raise MemberError where it fails.

        Raises:
            ConfigError: torch has no such precision, or the device no room.
            BundleError: the files are missing or broken, or the member has no torch weights.
        """
        try:
            network = load_network(folder, precision, self._device)
        except RuntimeError as error:
            raise ConfigError(f"member {folder.name!r}: torch can't lay it out on {self._device}: {error}") from error
        return partial(self._prepare, network)

    def _prepare(self, network: nn.Module, images_BHWC: ImageArray) -> Callable[[], None]:
        try:
            # A copy: torch warns of memory that it may not write to.
            images = torch.from_numpy(images_BHWC.copy()).to(self._device)
            return self._captured(network, images) if self._is_cuda else _Call(network, images)
        except RuntimeError as error:
            raise MemberError(str(error)) from error

    def _captured(self, network: nn.Module, images_BHWC: Tensor) -> "_Replay":
        # Weights and images were written on the default stream, for which those of torch's pool don't wait.
        torch.cuda.current_stream(self._device).synchronize()
        graph = capture(lambda: network(images_BHWC), self._device, stream=self._stream, pool=self._pool)
        return _Replay(graph, self._device, self._stream, network, images_BHWC)


@dataclass(frozen=True, slots=True)
class _Call:
    network: nn.Module
    images_BHWC: Tensor

    def __call__(self) -> None:
        try:
            with torch.inference_mode():
                self.network(self.images_BHWC)
        except RuntimeError as error:
            raise MemberError(str(error)) from error


@dataclass(frozen=True, slots=True)
class _Replay:
    """A graph, with the weights and images that it reads: it holds their addresses alone."""

    graph: torch.cuda.CUDAGraph
    device: torch.device
    stream: torch.cuda.Stream
    network: nn.Module
    images_BHWC: Tensor

    def __call__(self) -> None:
        try:
            with on_stream(self.device, self.stream), torch.inference_mode():
                self.graph.replay()
            self.stream.synchronize()
        except RuntimeError as error:
            raise MemberError(str(error)) from error

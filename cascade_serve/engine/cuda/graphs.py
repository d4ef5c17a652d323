"""A CUDA device: one stream and one set of graphs a lane, pinned buffers at the border, uploads on a stream apart.

What orders what:

- Uploads run on one stream of their own, from the pinned image of the slab. A lane's stream waits, on the device, for
  all uploads enqueued before its launch; a row is queued only after its upload was enqueued.
- A lane has one batch at a time. Its event is recorded behind the last copy back; after it, the lane's pinned buffers
  are free again. No other guard is needed, and none exists: nothing else touches them.
- A row is in one batch at a time, and in the next only after that one's event, so what a graph wrote to a row's slot is
  there for any other lane.
- A slot's pinned image may be overwritten, by the next request, while the upload for one that was cancelled is still
  under way. That upload then carries a mixture, which no batch reads before the next upload, behind it in the same
  stream, has replaced it.
"""
# Shapes: R slots, K classes, HWC image.

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import torch

from cascade_serve.core.arrays import ImageArray
from cascade_serve.engine.cuda.lane import Load, Port, Ports, Verdicts, padding_load
from cascade_serve.engine.cuda.step import Step
from cascade_serve.engine.cuda.streams import Streams
from cascade_serve.errors import MemberError

_WARM_UP_RUNS = 3
"""Before a capture: libraries load, choose algorithms and allocate workspaces, none of which a capture may do."""
_capture_lock = threading.Lock()
"""torch allows one capture at a time in a process; and CUDA breaks one off where any thread waits for the device."""


class GraphLane:
    """A lane on a CUDA device; see :class:`~cascade_serve.engine.cuda.lane.Lane`.

    All of its graphs share one pool of memory: they run on one stream, one after the other, and none leaves anything
    behind in the pool.

    Args:
        step: with slab and members on the device.
        buckets: batch sizes, ascending.
        device: the device.
        stream: nobody else's.
        uploads: the stream on which images arrive.
    """

    def __init__(
        self,
        step: Step,
        buckets: Sequence[int],
        device: torch.device,
        *,
        stream: torch.cuda.Stream,
        uploads: torch.cuda.Stream,
    ) -> None:
        self._step = step
        self._device = device
        self._stream = stream
        self._uploads = uploads
        # NOTE: a wait for it spins, without Python's lock: the shortest way back, at the price of a core meanwhile.
        self._done = torch.cuda.Event()
        self._pool = torch.cuda.graph_pool_handle()
        self._ports = Ports(buckets, step, device)
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        self._launched: tuple[Port, Load] | None = None

    def prepare(self, member: int, rows: int) -> None:
        """Capture a member at a bucket; see the protocol.

        Call from the largest bucket down, so that the smaller ones fit into the memory that it left.
        """
        port = self._ports.for_rows(rows)
        port.fill(padding_load(rows, self._step.slab.padding_slot))
        try:
            with on_stream(self._device, self._stream):
                port.inputs.data.copy_(port.host_inputs.data, non_blocking=True)
            self._graphs[member, port.rows] = capture(
                lambda: self._run(member, port), self._device, stream=self._stream, pool=self._pool
            )
        except RuntimeError as error:
            raise MemberError(str(error)) from error

    def launch(self, member: int, load: Load) -> None:
        """Enqueue copies in, the graph, and copies out; see the protocol."""
        rows = len(load.slot_B)
        port = self._ports.for_rows(rows)
        port.fill(load)
        try:
            # A replay too: of a network that draws, it writes torch's counters, which captures made in this mode.
            with on_stream(self._device, self._stream), torch.inference_mode():
                self._stream.wait_stream(self._uploads)
                port.inputs.data.copy_(port.host_inputs.data, non_blocking=True)
                graph = self._graphs.get((member, port.rows))
                if graph is None:
                    self._run(member, port)
                else:
                    graph.replay()
                port.host_outputs.data.copy_(port.outputs.data, non_blocking=True)
                if load.wants_probabilities:
                    port.host_probabilities_BK[:rows].copy_(port.probabilities_BK[:rows], non_blocking=True)
                self._done.record(self._stream)
        except RuntimeError as error:
            # What was enqueued may still read the buffers.
            with suppress(RuntimeError):
                self._stream.synchronize()
            raise MemberError(str(error)) from error
        self._launched = port, load

    def wait(self) -> Verdicts:
        """Wait for the copies out; see the protocol."""
        assert self._launched is not None, "nothing was launched"
        port, load = self._launched
        try:
            with torch.cuda.device(self._device):
                self._done.synchronize()
        except RuntimeError as error:
            raise MemberError(str(error)) from error
        return port.verdicts(load)

    def close(self) -> None:
        """Free the graphs and the buffers."""
        for graph in self._graphs.values():
            with suppress(RuntimeError):
                graph.reset()
        self._graphs.clear()
        self._launched = None
        del self._ports

    def _run(self, member: int, port: Port) -> None:
        self._step.run(member, port.inputs.columns, port.outputs.columns, port.probabilities_BK)


class CudaExecutor:
    """A CUDA device; see :class:`~cascade_serve.engine.cuda.lane.Executor`.

    Args:
        step: with slab and members on the device.
        num_lanes: batches that run at the same time, each on a stream of its own.
        buckets: batch sizes, ascending.
        device: the device, with its index.

    Raises:
        ConfigError: the engines of this process hold all of the device's streams.
    """

    def __init__(self, step: Step, num_lanes: int, buckets: Sequence[int], device: torch.device) -> None:
        forbid_tf32()
        self._device = device
        self._images_RHWC = step.slab.images_RHWC
        self._staging_RHWC = torch.zeros(self._images_RHWC.shape, dtype=torch.uint8, pin_memory=True)
        self._staging = self._staging_RHWC.numpy()
        self._streams = Streams(device)
        with ExitStack() as undo:
            undo.callback(self._streams.give_back)
            self._uploads = self._streams.take()
            self.lanes = tuple(
                GraphLane(step, buckets, device, stream=self._streams.take(), uploads=self._uploads)
                for _ in range(num_lanes)
            )
            # Weights and buffers were written on the default stream, for which those of torch's pool don't wait.
            torch.cuda.current_stream(device).synchronize()
            undo.pop_all()

    def upload(self, slots: Sequence[int], images_BHWC: ImageArray) -> None:
        """Copy images to the pinned image of the slab, and from there, asynchronously, to it; see the protocol."""
        self._staging[np.asarray(slots)] = images_BHWC
        try:
            with on_stream(self._device, self._uploads):
                for run in runs_of(slots):
                    self._images_RHWC[run].copy_(self._staging_RHWC[run], non_blocking=True)
        except RuntimeError as error:
            raise MemberError(str(error)) from error

    def close(self) -> None:
        """Free graphs, buffers and streams; see the protocol."""
        with _capture_lock:
            with suppress(RuntimeError):
                torch.cuda.synchronize(self._device)
            for lane in self.lanes:
                lane.close()
            # NOTE: torch marks the end of a pinned buffer on the streams that used it, which must not be capturing.
            del self._staging, self._staging_RHWC
        self._streams.give_back()


def forbid_tf32() -> None:
    """Turn TF32 off for the process: it would round like another precision, and so void what was measured in fp32."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def capture(
    run: Callable[[], object], device: torch.device, *, stream: torch.cuda.Stream, pool: Any
) -> torch.cuda.CUDAGraph:
    """Warm a piece of work up and capture it, in inference mode.

    Args:
        run: enqueues the work. What it reads and leaves behind must have been there before, and live as long as the
            graph.
        device: where.
        stream: on which the graph will be replayed; what was enqueued on it comes first.
        pool: a handle from torch: memory for what the work needs on its way, shared with graphs that never run at the
            same time.

    Returns:
        the graph, replayed once, as the first time carries it to the device.

    Raises:
        RuntimeError: torch's, where the work fails or can't be captured.
    """
    graph = torch.cuda.CUDAGraph()
    with _capture_lock, on_stream(device, stream), torch.inference_mode():
        for _ in range(_WARM_UP_RUNS):
            run()
        stream.synchronize()
        _record(run, graph, stream=stream, pool=pool)
        graph.replay()
        stream.synchronize()
    return graph


def _record(run: Callable[[], object], graph: torch.cuda.CUDAGraph, *, stream: torch.cuda.Stream, pool: Any) -> None:
    # As text: an error kept here would keep this frame, and what it holds of the device, until a garbage collection.
    broke: str | None = None
    try:
        # Only this thread is held to what a capture allows: an older version may be serving on the others.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            try:
                run()
            except RuntimeError as error:
                broke = str(error)
                raise
    except RuntimeError as error:
        # CUDA's last word on a broken capture is that it was broken, and not by what.
        raise RuntimeError(broke or str(error)) from error


@contextmanager
def on_stream(device: torch.device, stream: torch.cuda.Stream) -> Iterator[None]:
    """Let this thread launch on a stream.

    A stream's own context leaves by selecting the device before, which makes a context on it, half a gigabyte large,
    even where nobody uses that device; the device's own doesn't.
    """
    with torch.cuda.device(device), torch.cuda.stream(stream):
        yield


def runs_of(slots: Sequence[int]) -> Iterator[slice]:
    """Cut slots into runs of neighbours: each crosses the bus in one copy."""
    start = slots[0]
    for slot, following in zip(slots, [*slots[1:], None], strict=True):
        if following != slot + 1:
            yield slice(start, slot + 1)
            start = following if following is not None else start

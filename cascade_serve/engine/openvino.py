"""OpenVINO as a backend, on a CPU."""
# Shapes: B rows of a batch, K classes, HWC image.

import atexit
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_serve.bundle import GRAPH_FILE, Bundle
from cascade_serve.core.arrays import FloatArray, ImageArray
from cascade_serve.core.plan import Task
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.engine.sessions import SessionRunner
from cascade_serve.errors import BundleError, ConfigError, MemberError, MissingExtraError

if TYPE_CHECKING:
    import openvino as ov

ENGINE_NAME = "openvino"
_DEVICE = "CPU"
_INPUT = "images"
_OUTPUT = "logits"
_HINT = "INFERENCE_PRECISION_HINT"
_RUNTIME_ERRORS = (RuntimeError, ValueError)
_SIZES = (1, 2, 4, 8, 16, 32)
# Each size has its own weights: of a large graph there are fewer, and it gains less by them.
_SIZES_OF_LARGE = (1, 8)
_LARGE_BYTES = 32 << 20
# Precision → what the processor must be capable of, and what the layers that the graph leaves free compute in.
_PRECISIONS = {"fp32": ("FP32", "f32"), "int8": ("INT8", "f32"), "bf16": ("BF16", "bf16"), "fp16": ("FP16", "f16")}


def make_openvino_runners(bundle: Bundle, config: EngineConfig) -> list[SessionRunner]:
    """Compile one set of sessions for each worker.

    Args:
        bundle: verified.
        config: gives the number of workers and the threads of each.

    Raises:
        MissingExtraError: openvino is not installed.
        ConfigError: OpenVINO lacks a member's precision on this processor.
        BundleError: a graph can't be loaded, or its input or output is not what a member's must be.
    """
    for member in bundle.plan.members:
        check_precision(member.precision, f"member {member.name!r}")
    return [
        SessionRunner(
            bundle.plan,
            [
                open_session(
                    bundle.member_path(member.name) / GRAPH_FILE,
                    bundle.plan.task,
                    precision=member.precision,
                    threads=config.threads_per_worker,
                )
                for member in bundle.plan.members
            ],
        )
        for _ in range(config.workers)
    ]


class OpenVinoSession:
    """A member's graph, compiled for this processor: one run at a time, on the thread that calls, without the GIL.

    Graphs of a fixed batch size run quicker than those of any, so there is one for each of some sizes, compiled when it
    is first needed; a batch is run in parts of these sizes. Precision is kept: without being told, OpenVINO would
    compute fp32 graphs in bf16 where the processor has it.

    Args:
        graph: an ONNX file, or the bytes of one.
        precision: ``fp32``; ``int8``, of a graph quantised by QDQ nodes; ``bf16`` or ``fp16``, which OpenVINO rounds
            to by itself.
        threads: inside one run; 0 is one a core.

    Attributes:
        inputs, outputs: name → element type, and shape without the batch.

    Raises:
        MissingExtraError: openvino is not installed.
        ConfigError: OpenVINO lacks the precision on this processor, or can't load the graph.
    """

    def __init__(self, graph: Path | bytes, *, precision: str, threads: int) -> None:
        check_precision(precision, "graph")
        self._options = _options(precision, threads)
        try:
            self._sizes = _SIZES_OF_LARGE if _num_bytes(graph) > _LARGE_BYTES else _SIZES
            self._model = _core().read_model(graph)
            self.inputs, self.outputs = _describe(self._model.inputs), _describe(self._model.outputs)
            self._requests = {1: self._compile(1)}
        except (*_RUNTIME_ERRORS, OSError) as error:
            raise ConfigError(f"OpenVINO can't load the graph: {_brief(error)}") from error

    def logits(self, images_BHWC: ImageArray) -> FloatArray:
        """Run the graph.

        Args:
            images_BHWC: uint8 [B, H, W, C].

        Returns:
            float32 [B, K], the caller's own.

        Raises:
            MemberError: the run failed.
        """
        num_rows = len(images_BHWC)
        parts = []
        try:
            for rows, size in split(num_rows, self._sizes):
                if size not in self._requests:
                    self._requests[size] = self._compile(size)
                parts.append(self._requests[size].run(images_BHWC[rows]))
        except _RUNTIME_ERRORS as error:
            raise MemberError(f"OpenVINO can't run the graph on {images_BHWC.shape}: {_brief(error)}") from error
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _compile(self, size: int) -> "_Request":
        model = self._model.clone()
        model.reshape({0: [size, *model.input().partial_shape[1:]]})
        compiled = _core().compile_model(model, _DEVICE, self._options)
        wanted, actual = self._options[_HINT], compiled.get_property(_HINT).to_string()
        if actual != wanted:
            raise ValueError(f"{_HINT}: got {actual}; must be {wanted}")
        return _Request(compiled.create_infer_request())


class _Request:
    """A compiled graph of one batch size, with its own images and logits: the same memory in every run."""

    def __init__(self, request: "ov.InferRequest") -> None:
        self._request = request
        self._images_BHWC: ImageArray = request.get_input_tensor().data
        self._logits_BK: FloatArray = request.get_output_tensor().data

    def run(self, images_BHWC: ImageArray) -> FloatArray:
        """Run images, as many as fit or fewer; what is beyond them is what was there before."""
        num_rows = len(images_BHWC)
        if images_BHWC.shape[1:] != self._images_BHWC.shape[1:] or images_BHWC.dtype != np.uint8:
            raise ValueError(
                f"images: got {images_BHWC.dtype} {images_BHWC.shape}; must be uint8 {self._images_BHWC.shape}"
            )
        # NOTE: cheaper than letting OpenVINO read them where they lie, which takes a new tensor a run.
        self._images_BHWC[:num_rows] = images_BHWC
        self._request.infer()
        return self._logits_BK[:num_rows].copy()


def split(num_rows: int, sizes: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """Cut a batch into parts of given sizes.

    Args:
        num_rows: of the batch.
        sizes: 1, and larger ones.

    Yields:
        a part's rows, and the size that it runs in: the largest of which it fills at least seven eighths, as more rows
        run quicker in one go, but filling up costs what the missing rows would.
    """
    start = 0
    while start < num_rows:
        rows = num_rows - start
        size = max(size for size in sizes if 7 * size <= 8 * rows)
        yield slice(start, start + min(size, rows)), size
        start += size


def check_precision(precision: str, what: str) -> None:
    """Refuse a precision that OpenVINO lacks on this processor.

    Args:
        precision: a member's.
        what: has it, for the message.

    Raises:
        MissingExtraError: openvino is not installed.
        ConfigError: it lacks it.
    """
    capabilities = _core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
    known = [name for name, (capability, _) in _PRECISIONS.items() if capability in capabilities]
    if precision not in known:
        raise ConfigError(
            f"{what}: precision: got {precision}; must be {' or '.join(known)}, which is what OpenVINO has on this"
            " processor"
        )


def open_session(path: Path, task: Task, *, precision: str, threads: int) -> OpenVinoSession:
    """Open a member's graph, and check that it is for the task.

    Args:
        path: the ONNX file.
        task: gives the image size and the classes.
        precision: the member's.
        threads: inside one run.

    Raises:
        MissingExtraError: openvino is not installed.
        BundleError: the graph can't be loaded, or its input or output is not what a member's must be.
    """
    try:
        session = OpenVinoSession(path, precision=precision, threads=threads)
    except MissingExtraError:
        raise
    except ConfigError as error:
        raise BundleError(f"{path}: {error}") from error
    images = ("u8", task.image_shape)
    if session.inputs != {_INPUT: images}:
        raise BundleError(f"{path.as_posix()}: inputs: got {session.inputs}; must be {_INPUT!r} of {images}")
    logits = ("f32", (len(task.classes),))
    if session.outputs != {_OUTPUT: logits}:
        raise BundleError(f"{path.as_posix()}: outputs: got {session.outputs}; must be {_OUTPUT!r} of {logits}")
    return session


def _describe(ports: "list[ov.Output]") -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        port.any_name: (port.element_type.get_type_name(), tuple(map(_length, port.partial_shape[1:])))
        for port in ports
    }


def _length(dimension: "ov.Dimension") -> int:
    return -1 if dimension.is_dynamic else dimension.get_length()


def _options(precision: str, threads: int) -> dict[str, Any]:
    """Say how to compile.

    No streams: a run stays on the thread that calls, which is a worker's. OpenVINO's own threads, two a graph, would
    cost a hand-over; and bound to cores, all workers' would be bound to the same ones.
    """
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 0,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
        _HINT: _PRECISIONS[precision][1],
        **({"CACHE_DIR": folder} if (folder := _cache_folder()) else {}),
    }


def _num_bytes(graph: Path | bytes) -> int:
    return len(graph) if isinstance(graph, bytes) else graph.stat().st_size


@cache
def _core() -> "ov.Core":
    """Give the one core of the process; it keeps what all sessions share."""
    return _openvino().Core()


@cache
def _cache_folder() -> str | None:
    """Make a folder for what was compiled, so that the first worker compiles for all; it goes with the process."""
    try:
        folder = TemporaryDirectory(prefix="cascade-serve-openvino-")
    except OSError:
        return None
    atexit.register(folder.cleanup)
    return folder.name


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino") from error
    return openvino


def _brief(error: Exception) -> str:
    """Put a message of several lines, with the places in OpenVINO's source, on one."""
    lines = (line.strip() for line in str(error).splitlines())
    return " ".join(line for line in lines if line and not line.startswith("Exception from"))

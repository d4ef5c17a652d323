"""ONNX Runtime as a backend, on a CPU or a CUDA device."""
# Shapes: B rows of a batch, K classes, HWC image.

import logging
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from cascade_serve.bundle import GRAPH_FILE, Bundle
from cascade_serve.core.arrays import FloatArray, ImageArray
from cascade_serve.core.plan import Task
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.engine.sessions import SessionRunner
from cascade_serve.errors import BundleError, ConfigError, MemberError, MissingExtraError

if TYPE_CHECKING:
    import onnxruntime as ort

_log = logging.getLogger(__name__)

ENGINE_NAME = "onnxruntime"
_INPUT = "images"
_OUTPUT = "logits"
_PRECISIONS = ("fp32", "fp16", "int8")
CPU_PROVIDER: tuple[str, dict[str, str]] = ("CPUExecutionProvider", {})


class Device(StrEnum):
    """Where members run."""

    CPU = "cpu"
    CUDA = "cuda"


Provider = tuple[str, dict[str, str]]
"""One of ONNX Runtime's execution providers, and its options."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What runs a graph.

    Attributes:
        providers: each is offered what those before it left; the first must be there.
        device_id: the CUDA device that logits are left on by a run; None on a CPU.
        fixed_batch: name of the graph's batch dimension, and the rows of every run; None takes any number.
    """

    providers: tuple[Provider, ...]
    device_id: int | None = None
    fixed_batch: tuple[str, int] | None = None


def make_runners(bundle: Bundle, config: EngineConfig, device: Device, device_id: int = 0) -> list[SessionRunner]:
    """Open one set of sessions for each worker.

    Args:
        bundle: verified.
        config: gives the number of workers and the threads of each.
        device: CPU, or CUDA.
        device_id: which CUDA device.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ConfigError: the installed onnxruntime has no provider for the device, or lacks a member's precision.
        BundleError: a graph can't be loaded, or its input or output is not what a member's must be.
    """
    for member in bundle.plan.members:
        check_precision(member.precision, f"member {member.name!r}")
    placement = place(device, device_id)
    return [
        SessionRunner(
            bundle.plan,
            [
                OnnxSession(
                    bundle.member_path(member.name) / GRAPH_FILE,
                    bundle.plan.task,
                    config.threads_per_worker,
                    placement,
                )
                for member in bundle.plan.members
            ],
        )
        for _ in range(config.workers)
    ]


def check_precision(precision: str, what: str) -> None:
    """Refuse a precision that ONNX Runtime does not compute in: a bf16 member's graph would run in fp32.

    Args:
        precision: a member's.
        what: has it, for the message.

    Raises:
        ConfigError: it lacks it.
    """
    if precision not in _PRECISIONS:
        raise ConfigError(
            f"{what}: precision: got {precision}; must be {' or '.join(_PRECISIONS)}, which is what ONNX Runtime has"
        )


class OnnxSession:
    """A member's graph in ONNX Runtime, run by one thread at a time.

    Args:
        path: the ONNX file.
        task: gives the image size and the classes.
        threads: inside one run.
        placement: what runs it.

    Attributes:
        batch_name: what the graph calls its batch dimension; None where it has no name.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ConfigError: the first provider could not be loaded.
        BundleError: the graph can't be loaded, or its input or output is not what a member's must be.
    """

    def __init__(self, path: Path, task: Task, threads: int, placement: Placement) -> None:
        ort = _onnxruntime()
        if placement.device_id is not None:
            _load_cuda()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        # Workers share the cores with the loop that answers calls: a spinning thread would take them from both.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if placement.fixed_batch is not None:
            options.add_free_dimension_override_by_name(*placement.fixed_batch)
        try:
            # NOTE: by default, what fails on a device is run anew on another, and all that follows too.
            session = ort.InferenceSession(str(path), options, providers=list(placement.providers), enable_fallback=0)
        except _runtime_errors() as error:
            raise BundleError(f"{path}: {error}") from error
        _check_provider(session, placement.providers[0][0])
        _check_signature(session, path.as_posix(), task)
        name = session.get_inputs()[0].shape[0]
        self.batch_name = name if isinstance(name, str) else None
        self._device_id = placement.device_id
        self._session = session

    def logits(self, images_BHWC: ImageArray) -> FloatArray:
        """Run the graph on uint8 images [B, H, W, C] and give its logits, float32 [B, K].

        Raises:
            MemberError: the run failed.
        """
        try:
            if self._device_id is None:
                logits_BK: FloatArray = self._session.run([_OUTPUT], {_INPUT: images_BHWC})[0]
                return logits_BK
            return _run_bound(self._session, images_BHWC, self._device_id)
        except _runtime_errors() as error:
            raise MemberError(str(error)) from error


def _run_bound(session: "ort.InferenceSession", images_BHWC: ImageArray, device_id: int) -> FloatArray:
    """Run with bound buffers: one copy in, one copy out, nothing in between."""
    binding = session.io_binding()
    binding.bind_cpu_input(_INPUT, images_BHWC)
    binding.bind_output(_OUTPUT, "cuda", device_id)
    session.run_with_iobinding(binding)
    logits_BK: FloatArray = binding.copy_outputs_to_cpu()[0]
    return logits_BK


def _check_provider(session: "ort.InferenceSession", provider: str) -> None:
    """Refuse to run without a provider, which ONNX Runtime leaves out where a library that it needs can't be loaded."""
    loaded = session.get_providers()
    if provider not in loaded:
        raise ConfigError(
            f"{provider}: this onnxruntime could not load it, and would run on {', '.join(loaded)}; its log above says"
            " which of the libraries that it needs is missing"
        )


def _check_signature(session: "ort.InferenceSession", path: str, task: Task) -> None:
    inputs = {node.name: (node.type, node.shape[1:]) for node in session.get_inputs()}
    expected = ("tensor(uint8)", list(task.image_shape))
    if inputs != {_INPUT: expected}:
        raise BundleError(f"{path}: inputs: got {inputs}; must be {_INPUT!r} of {expected}")
    outputs = {node.name: (node.type, node.shape[1:]) for node in session.get_outputs()}
    if outputs != {_OUTPUT: ("tensor(float)", [len(task.classes)])}:
        raise BundleError(f"{path}: outputs: got {outputs}; must be {_OUTPUT!r} of float32 [n, {len(task.classes)}]")


def place(device: Device, device_id: int = 0) -> Placement:
    """Say what runs a graph on a device.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ConfigError: it has no provider for the device.
    """
    match device:
        case Device.CPU:
            return Placement(providers=(CPU_PROVIDER,))
        case Device.CUDA:
            check_available("CUDAExecutionProvider", "device: got 'cuda'")
            return Placement(providers=(cuda_provider(device_id), CPU_PROVIDER), device_id=device_id)
        case _:
            assert_never(device)


def check_available(provider: str, what: str) -> None:
    """Refuse a provider that the installed onnxruntime was not built with.

    Args:
        provider: such as ``CUDAExecutionProvider``.
        what: needs it, for the message.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ConfigError: it was built without.
    """
    available: Sequence[str] = _onnxruntime().get_available_providers()
    if provider not in available:
        raise ConfigError(
            f"{what}; this onnxruntime has only {', '.join(available)}:"
            " install the gpu extra, cascade-serve[gpu], in place of cpu"
        )


def cuda_provider(device_id: int) -> Provider:
    """Give the CUDA provider; TF32 would round like another precision, and so void what was measured in fp32."""
    return "CUDAExecutionProvider", {
        "device_id": str(device_id),
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
    }


@cache
def _load_cuda() -> None:
    """Load CUDA and cuDNN from pip packages, such as torch brings along, else from where the system looks.

    ONNX Runtime itself looks only there. What is missing is told by the session that needs it.
    """
    said = StringIO()
    with redirect_stdout(said):
        _onnxruntime().preload_dlls()
    for line in said.getvalue().splitlines():
        _log.info("onnxruntime: %s", line)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "cpu") from error
    return onnxruntime


def _runtime_errors() -> tuple[type[Exception], ...]:
    """Give what onnxruntime raises: its own classes have no common root but Exception, and some are plain."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = tuple(error for error in vars(state).values() if isinstance(error, type) and issubclass(error, Exception))
    return (*own, RuntimeError, ValueError)

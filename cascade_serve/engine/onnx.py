"""ONNX Runtime as a backend, on a CPU or a CUDA device."""
# Shapes: B rows of a batch, K classes, HWC image.

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, assert_never

from cascade_serve.bundle import GRAPH_FILE, Bundle
from cascade_serve.core.arrays import FloatArray, ImageArray
from cascade_serve.core.plan import Fingerprint, Plan
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.errors import BundleError, ConfigError, MemberError, MissingExtraError

if TYPE_CHECKING:
    import onnxruntime as ort

ENGINE_NAME = "onnxruntime"
_INPUT = "images"
_OUTPUT = "logits"


class Device(StrEnum):
    """Where members run."""

    CPU = "cpu"
    CUDA = "cuda"


def fingerprint(plan: Plan) -> Fingerprint:
    """Say what this backend computes a plan's answers with."""
    return Fingerprint(engine=ENGINE_NAME, precision="+".join(sorted({member.precision for member in plan.members})))


def make_runners(bundle: Bundle, config: EngineConfig, device: Device, device_id: int = 0) -> list["OnnxRunner"]:
    """Open one set of sessions for each worker.

    Args:
        bundle: verified.
        config: gives the number of workers and the threads of each.
        device: CPU, or CUDA.
        device_id: which CUDA device.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ConfigError: the installed onnxruntime has no provider for the device.
        BundleError: a graph can't be loaded, or its input or output is not what a member's must be.
    """
    providers = _providers(device, device_id)
    return [OnnxRunner(bundle, config, providers) for _ in range(config.workers)]


class OnnxRunner:
    """One session a member; see :class:`~cascade_serve.engine.protocol.Runner`."""

    def __init__(self, bundle: Bundle, config: EngineConfig, providers: Sequence[tuple[str, dict[str, str]]]) -> None:
        self._names = [member.name for member in bundle.plan.members]
        self._sessions = [_open_session(bundle, name, config, providers) for name in self._names]
        self._num_classes = len(bundle.plan.task.classes)
        self._is_on_cuda = providers[0][0] == "CUDAExecutionProvider"

    def run(self, member: int, images_BHWC: ImageArray) -> FloatArray:
        """Run one member; see the protocol."""
        session = self._sessions[member]
        try:
            logits_BK = _run_bound(session, images_BHWC) if self._is_on_cuda else _run(session, images_BHWC)
        except _runtime_errors() as error:
            raise MemberError(f"member {self._names[member]!r}: {error}") from error
        expected = (len(images_BHWC), self._num_classes)
        if logits_BK.shape != expected:
            raise MemberError(
                f"member {self._names[member]!r}: logits: got shape {logits_BK.shape}; must be {expected}"
            )
        return logits_BK


def _run(session: "ort.InferenceSession", images_BHWC: ImageArray) -> FloatArray:
    logits_BK: FloatArray = session.run([_OUTPUT], {_INPUT: images_BHWC})[0]
    return logits_BK


def _run_bound(session: "ort.InferenceSession", images_BHWC: ImageArray) -> FloatArray:
    """Run with bound buffers: one copy in, one copy out, nothing in between."""
    binding = session.io_binding()
    binding.bind_cpu_input(_INPUT, images_BHWC)
    binding.bind_output(_OUTPUT, "cuda")
    session.run_with_iobinding(binding)
    logits_BK: FloatArray = binding.copy_outputs_to_cpu()[0]
    return logits_BK


def _open_session(
    bundle: Bundle, member: str, config: EngineConfig, providers: Sequence[tuple[str, dict[str, str]]]
) -> "ort.InferenceSession":
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.threads_per_worker
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Workers share the cores with the handler threads: a spinning thread would take them from both.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    path = bundle.member_path(member) / GRAPH_FILE
    try:
        session = ort.InferenceSession(str(path), options, providers=list(providers))
    except _runtime_errors() as error:
        raise BundleError(f"{path}: {error}") from error
    _check_signature(session, path.as_posix(), bundle.plan)
    return session


def _check_signature(session: "ort.InferenceSession", path: str, plan: Plan) -> None:
    inputs = {node.name: (node.type, node.shape[1:]) for node in session.get_inputs()}
    expected = ("tensor(uint8)", list(plan.task.image_shape))
    if inputs != {_INPUT: expected}:
        raise BundleError(f"{path}: inputs: got {inputs}; must be {_INPUT!r} of {expected}")
    outputs = {node.name: (node.type, node.shape[1:]) for node in session.get_outputs()}
    if outputs != {_OUTPUT: ("tensor(float)", [len(plan.task.classes)])}:
        raise BundleError(
            f"{path}: outputs: got {outputs}; must be {_OUTPUT!r} of float32 [n, {len(plan.task.classes)}]"
        )


def _providers(device: Device, device_id: int) -> list[tuple[str, dict[str, str]]]:
    match device:
        case Device.CPU:
            return [("CPUExecutionProvider", {})]
        case Device.CUDA:
            available = _onnxruntime().get_available_providers()
            if "CUDAExecutionProvider" not in available:
                raise ConfigError(
                    f"device: got 'cuda'; this onnxruntime has only {', '.join(available)}:"
                    " install the gpu extra, cascade-serve[gpu], in place of cpu"
                )
            # TF32 would round like another precision, and so void what was measured in fp32.
            cuda = {"device_id": str(device_id), "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
            return [("CUDAExecutionProvider", cuda), ("CPUExecutionProvider", {})]
        case _:
            assert_never(device)


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

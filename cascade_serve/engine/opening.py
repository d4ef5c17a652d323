"""Opens an engine for a bundle, and refuses one whose numbers were measured on something else."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import assert_never

from cascade_serve.bundle import Bundle
from cascade_serve.core.plan import Fingerprint, Member, Plan
from cascade_serve.engine import onnx, openvino, tensorrt
from cascade_serve.engine.committee import CommitteeEngine
from cascade_serve.engine.onnx import Device
from cascade_serve.engine.protocol import Engine, EngineConfig, Observer, Runner
from cascade_serve.errors import BundleError, ConfigError, MissingExtraError


class Backend(StrEnum):
    """What runs the members."""

    ONNX = "onnx"
    """ONNX Runtime, on a CPU or a CUDA device."""
    OPENVINO = "openvino"
    """OpenVINO, on a CPU."""
    TENSORRT = "tensorrt"
    """ONNX Runtime with its TensorRT provider, on a CUDA device."""
    TORCH = "torch"
    """torch, on CUDA devices; on a CPU too, where it is slower than the others."""


@dataclass(frozen=True, kw_only=True)
class OpeningConfig:
    """How bundles become engines.

    Attributes:
        engine: bounds of each engine.
        backend: what runs the members.
        device: where.
        device_ids: which CUDA devices, each once; several only with torch, which runs one engine on each.
        engine_cache: folder in which TensorRT's engines are kept for the next start; None keeps them beside each
            version's folder.
        allow_uncertified: serve a plan that was calibrated on another engine or precision, with every answer flagged
            uncertified; otherwise it is refused.
    """

    engine: EngineConfig = field(default_factory=EngineConfig)
    backend: Backend = Backend.ONNX
    device: Device = Device.CPU
    device_ids: tuple[int, ...] = (0,)
    engine_cache: Path | None = None
    allow_uncertified: bool = False

    def __post_init__(self) -> None:
        if not self.device_ids or len(set(self.device_ids)) != len(self.device_ids):
            raise ValueError(f"device_ids: got {self.device_ids}; must be at least one, each once")
        if len(self.device_ids) > 1 and (self.backend is not Backend.TORCH or self.device is not Device.CUDA):
            raise ValueError(f"device_ids: got {self.device_ids}; must be one, but for torch on cuda")
        if self.device is Device.CPU and self.device_ids != (0,):
            raise ValueError(f"device_ids: got {self.device_ids} on cpu; only CUDA devices have one, so must be (0,)")
        if self.engine_cache is not None and self.backend is not Backend.TENSORRT:
            raise ValueError(
                f"engine_cache: got {self.engine_cache} for {self.backend.value}; only tensorrt keeps engines"
            )


def open_engine(bundle: Bundle, config: OpeningConfig, observer: Observer) -> Engine:
    """Open an engine; it is not warm yet.

    Raises:
        BundleError: a member can't be loaded, or the plan was calibrated on something else.
        ConfigError: this installation can't serve on the device, or not in a member's precision; or the machine has no
            memory for the rows.
    """
    actual = Fingerprint.of(_engine_name(config.backend, bundle.plan), bundle.plan.members)
    is_certified = _is_certified(bundle, actual, config.allow_uncertified)
    bundle = replace(bundle, plan=_with_own_profiles(bundle.plan, config, actual))
    runners: Sequence[Runner]
    match config.backend:
        case Backend.ONNX:
            runners = onnx.make_runners(bundle, config.engine, config.device, config.device_ids[0])
        case Backend.OPENVINO:
            if config.device is not Device.CPU:
                raise ConfigError(f"device: got {config.device.value!r}; the openvino engine runs on 'cpu' alone")
            runners = openvino.make_openvino_runners(bundle, config.engine)
        case Backend.TENSORRT:
            if config.device is not Device.CUDA:
                raise ConfigError(f"device: got {config.device.value!r}; the tensorrt engine runs on 'cuda' alone")
            runners = tensorrt.make_tensorrt_runners(
                bundle, config.engine, device_id=config.device_ids[0], cache=config.engine_cache
            )
        case Backend.TORCH:
            return _open_torch(bundle, config, observer, actual, is_certified=is_certified)
        case _:
            assert_never(config.backend)
    try:
        return CommitteeEngine(
            bundle.plan,
            runners,
            config=config.engine,
            fingerprint=actual,
            observer=observer,
            is_certified=is_certified,
        )
    except MemoryError as error:
        raise ConfigError(
            f"{bundle.path}: max_queue_rows: got {config.engine.max_queue_rows}; this machine has no memory for so many"
            f" rows ({error})"
        ) from error


def _engine_name(backend: Backend, plan: Plan) -> str:
    match backend:
        case Backend.ONNX:
            return onnx.ENGINE_NAME
        case Backend.OPENVINO:
            return openvino.ENGINE_NAME
        case Backend.TENSORRT:
            return tensorrt.engine_name(plan.members)
        case Backend.TORCH:
            return "torch"
        case _:
            assert_never(backend)


def _open_torch(
    bundle: Bundle, config: OpeningConfig, observer: Observer, actual: Fingerprint, *, is_certified: bool
) -> Engine:
    if find_spec("torch") is None:
        raise MissingExtraError("torch", "torch")
    # Imported here alone: serving on anything else needs no torch, and starts without its seconds.
    from cascade_serve.engine.cuda.opening import open_torch_engine

    devices = ["cpu"] if config.device is Device.CPU else [f"cuda:{index}" for index in config.device_ids]
    return open_torch_engine(
        bundle, config.engine, observer, devices=devices, fingerprint=actual, is_certified=is_certified
    )


def _with_own_profiles(plan: Plan, config: OpeningConfig, actual: Fingerprint) -> Plan:
    """Forget profiles that say nothing of this engine, as batches would follow them, and be far too small on a GPU.

    Each is of one kind of device, and of the engine that calibrated its member; what a plan by hand holds is taken to
    be of this one.
    """
    is_own = plan.calibration is None or plan.calibration.fingerprint.engine == actual.engine
    # TensorRT computes fp32 members under ONNX Runtime's name; their profiles are of its CUDA provider.
    is_own = is_own and config.backend is not Backend.TENSORRT
    return replace(plan, members=tuple(_with_own_profile(member, config, is_own=is_own) for member in plan.members))


def _with_own_profile(member: Member, config: OpeningConfig, *, is_own: bool) -> Member:
    if is_own and (member.profiled_device or "cpu") == config.device.value:
        return member
    return replace(member, seconds=None, profiled_device=None)


def _is_certified(bundle: Bundle, actual: Fingerprint, allow_uncertified: bool) -> bool:
    calibration = bundle.plan.calibration
    if calibration is None or calibration.fingerprint == actual:
        return True
    if not allow_uncertified:
        measured = calibration.fingerprint
        raise BundleError(
            f"{bundle.path}: the plan was calibrated on {measured.engine} in {measured.precision}, and would be served"
            f" on {actual.engine} in {actual.precision}; plan anew, or allow uncertified answers"
        )
    return False

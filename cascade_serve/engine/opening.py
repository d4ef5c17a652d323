"""Opens an engine for a bundle, and refuses one whose numbers were measured on something else."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import assert_never

from cascade_serve.bundle import Bundle
from cascade_serve.core.plan import Fingerprint, Plan
from cascade_serve.engine import onnx, openvino
from cascade_serve.engine.committee import CommitteeEngine
from cascade_serve.engine.onnx import Device
from cascade_serve.engine.protocol import EngineConfig, Observer, Runner
from cascade_serve.errors import BundleError, ConfigError


class Backend(StrEnum):
    """What runs the members."""

    ONNX = "onnx"
    """ONNX Runtime, on a CPU or a CUDA device."""
    OPENVINO = "openvino"
    """OpenVINO, on a CPU."""


@dataclass(frozen=True, kw_only=True)
class OpeningConfig:
    """How bundles become engines.

    Attributes:
        engine: bounds of each engine.
        backend: what runs the members.
        device: where.
        device_id: which CUDA device.
        allow_uncertified: serve a plan that was calibrated on another engine or precision, with every answer flagged
            uncertified; otherwise it is refused.
    """

    engine: EngineConfig = field(default_factory=EngineConfig)
    backend: Backend = Backend.ONNX
    device: Device = Device.CPU
    device_id: int = 0
    allow_uncertified: bool = False


def open_engine(bundle: Bundle, config: OpeningConfig, observer: Observer) -> CommitteeEngine:
    """Open an engine; it is not warm yet.

    Raises:
        BundleError: a graph can't be loaded, or the plan was calibrated on something else.
        ConfigError: this installation can't serve on the device, or not in a member's precision.
    """
    actual = fingerprint(bundle.plan, config.backend)
    is_certified = _is_certified(bundle, actual, config.allow_uncertified)
    return CommitteeEngine(
        bundle.plan,
        _make_runners(bundle, config),
        config=config.engine,
        fingerprint=actual,
        observer=observer,
        is_certified=is_certified,
    )


def fingerprint(plan: Plan, backend: Backend) -> Fingerprint:
    """Say what a backend computes a plan's answers with."""
    match backend:
        case Backend.ONNX:
            return onnx.fingerprint(plan)
        case Backend.OPENVINO:
            return openvino.fingerprint(plan)
        case _:
            assert_never(backend)


def _make_runners(bundle: Bundle, config: OpeningConfig) -> Sequence[Runner]:
    match config.backend:
        case Backend.ONNX:
            return onnx.make_runners(bundle, config.engine, config.device, config.device_id)
        case Backend.OPENVINO:
            if config.device is not Device.CPU:
                raise ConfigError(f"device: got {config.device.value!r}; the openvino engine runs on 'cpu' alone")
            return openvino.make_openvino_runners(bundle, config.engine)
        case _:
            assert_never(config.backend)


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

"""Opens an engine for a bundle, and refuses one whose numbers were measured on something else."""

from dataclasses import dataclass, field
from enum import StrEnum

from cascade_serve.bundle import Bundle
from cascade_serve.core.plan import Fingerprint
from cascade_serve.engine.committee import CommitteeEngine
from cascade_serve.engine.onnx import Device, fingerprint, make_runners
from cascade_serve.engine.protocol import EngineConfig, Observer
from cascade_serve.errors import BundleError


class Backend(StrEnum):
    """What runs the members."""

    ONNX = "onnx"
    """ONNX Runtime."""


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
    """Open an ONNX Runtime engine; it is not warm yet.

    Raises:
        BundleError: a graph can't be loaded, or the plan was calibrated on something else.
        ConfigError: this installation can't serve on the device.
    """
    actual = fingerprint(bundle.plan)
    return CommitteeEngine(
        bundle.plan,
        make_runners(bundle, config.engine, config.device, config.device_id),
        config=config.engine,
        fingerprint=actual,
        observer=observer,
        is_certified=_is_certified(bundle, actual, config.allow_uncertified),
    )


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

"""Opens a bundle on torch: networks loaded, rows laid out, one engine a device."""

from collections.abc import Sequence
from contextlib import ExitStack

import torch

from cascade_serve.bundle import Bundle
from cascade_serve.core.plan import Fingerprint
from cascade_serve.engine.cuda.engine import DeviceEngine
from cascade_serve.engine.cuda.fleet import EngineFleet
from cascade_serve.engine.cuda.graphs import CudaExecutor
from cascade_serve.engine.cuda.lane import EagerExecutor, Executor
from cascade_serve.engine.cuda.network import find_device, load_network
from cascade_serve.engine.cuda.step import DeviceSlab, Member, Step
from cascade_serve.engine.protocol import Engine, EngineConfig, Observer
from cascade_serve.errors import ConfigError


def open_torch_engine(
    bundle: Bundle,
    config: EngineConfig,
    observer: Observer,
    *,
    devices: Sequence[str],
    fingerprint: Fingerprint,
    is_certified: bool,
) -> Engine:
    """Open a torch engine on each device; it is not warm yet.

    Args:
        bundle: verified; its members hold torch weights.
        config: bounds of each engine; a worker is a lane, on CUDA a stream.
        observer: watches all of them.
        devices: such as ``cpu``, or ``cuda:0`` and ``cuda:1``; at least one, each once.
        fingerprint: what computes the answers.
        is_certified: False marks every answer as uncertified.

    Raises:
        ConfigError: a device is absent or has no room, or a member's precision is none of torch's.
        BundleError: a member has no torch weights, or they can't be loaded.
    """
    found = [find_device(name) for name in devices]
    engines: list[DeviceEngine] = []
    with ExitStack() as undo:
        for device in found:
            executor = _make_executor(bundle, config, device)
            engine = DeviceEngine(
                bundle.plan,
                executor,
                config=config,
                fingerprint=fingerprint,
                observer=observer,
                is_certified=is_certified,
            )
            undo.callback(engine.close)
            engines.append(engine)
        undo.pop_all()
    return engines[0] if len(engines) == 1 else EngineFleet(engines)


def _make_executor(bundle: Bundle, config: EngineConfig, device: torch.device) -> Executor:
    try:
        return make_executor(_make_step(bundle, config, device), config, device)
    except RuntimeError as error:
        raise ConfigError(
            f"{bundle.path}: torch can't lay it out on {device} with max_queue_rows {config.max_queue_rows},"
            f" max_batch_size {config.max_batch_size} and workers {config.workers}: {error}"
        ) from error


def _make_step(bundle: Bundle, config: EngineConfig, device: torch.device) -> Step:
    plan = bundle.plan
    members = tuple(
        Member(load_network(bundle.member_path(member.name), member.precision, device), member.temperature)
        for member in plan.members
    )
    return Step(DeviceSlab(plan, config.max_queue_rows, device), members, plan.combine, plan.confidence)


def make_executor(step: Step, config: EngineConfig, device: torch.device) -> Executor:
    """Give rows on a device the lanes that fit it: graphs on CUDA, plain calls on a CPU."""
    if device.type == "cuda":
        return CudaExecutor(step, config.workers, config.batch_buckets, device)
    # For the process: torch has no such bound for a thread.
    torch.set_num_threads(config.threads_per_worker)
    return EagerExecutor(step, config.workers, config.batch_buckets)

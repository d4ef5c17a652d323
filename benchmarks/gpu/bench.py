"""The torch engine, opened and warm, over a pair of networks."""
# Shapes: N images, B rows of one request, HWC image.

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from benchmarks.gpu.pairs import Pair, build, plan_of, random_images, task_of
from cascade_serve.core.arrays import ImageArray
from cascade_serve.core.plan import Fingerprint
from cascade_serve.core.request import Reply
from cascade_serve.engine.cuda import step as device_step
from cascade_serve.engine.cuda.engine import DeviceEngine
from cascade_serve.engine.cuda.network import DTYPES, to_device
from cascade_serve.engine.cuda.opening import make_executor
from cascade_serve.engine.protocol import EngineConfig
from model_zoo.served import ServedModule


class Silent:
    """Watches nothing."""

    def batch_ran(self, member: str, queue_s_B: Sequence[float], compute_s: float) -> None:
        """Ignore it; see the protocol."""

    def rows_gated(self, stage_B: Sequence[int], confidence_B: Sequence[float]) -> None:
        """Ignore it; see the protocol."""

    def request_answered(self, reply: Reply, row_s_B: Sequence[float]) -> None:
        """Ignore it; see the protocol."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A warm engine, and what it was made of."""

    pair: Pair
    device: torch.device
    step: device_step.Step
    engine: DeviceEngine
    images_NHWC: ImageArray


@contextmanager
def opened(pair: Pair, precision: str, device: torch.device, lanes: int) -> Iterator[Bench]:
    """Open and warm an engine."""
    plan, task = plan_of(pair, precision), task_of(pair)
    config = EngineConfig(workers=lanes, max_batch_size=pair.batch_size, max_queue_rows=max(64, 16 * pair.batch_size))
    members = tuple(
        device_step.Member(
            to_device(ServedModule(built.module, built.preset, task), DTYPES[precision], device), temperature=1.0
        )
        for built in build(pair)
    )
    slab = device_step.DeviceSlab(plan, config.max_queue_rows, device)
    step = device_step.Step(slab, members, plan.combine, plan.confidence)
    engine = DeviceEngine(
        plan,
        make_executor(step, config, device),
        config=config,
        fingerprint=Fingerprint(engine="torch", precision=precision),
        observer=Silent(),
    )
    try:
        engine.warm_up()
        yield Bench(pair=pair, device=device, step=step, engine=engine, images_NHWC=random_images(pair))
    finally:
        engine.close()

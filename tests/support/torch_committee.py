"""The committee of lookup tables as torch modules, on the torch engine."""

import time
from collections.abc import Callable

import torch
from table_committee import POISON, Bench, Watcher, make_plan, random_table
from torch import Tensor, nn

from cascade_serve.core.arrays import FloatArray
from cascade_serve.core.plan import Fingerprint, Plan
from cascade_serve.engine.cuda.engine import DeviceEngine
from cascade_serve.engine.cuda.opening import make_executor
from cascade_serve.engine.cuda.step import DeviceSlab, Member, Step
from cascade_serve.engine.protocol import EngineConfig

Hook = Callable[[int, int], None]


class TableModule(nn.Module):
    """Answers from a table. On a CPU it raises on any batch that holds a poisoned row; a graph can't."""

    table_VK: Tensor

    def __init__(self, table_VK: Tensor, member: int, before_run: Hook | None, *, can_raise: bool) -> None:
        super().__init__()
        self.register_buffer("table_VK", table_VK)
        self._member = member
        self._before_run = before_run
        self._can_raise = can_raise

    def forward(self, images_BHWC: Tensor) -> Tensor:
        values_B = images_BHWC[:, 0, 0, 0].long()
        if self._before_run is not None:
            self._before_run(self._member, len(values_B))
        if self._can_raise and bool((values_B == POISON).any()):
            raise RuntimeError("poisoned")
        return self.table_VK.index_select(0, values_B)


def make_table_step(
    plan: Plan, logits_MVK: FloatArray, device: torch.device, num_slots: int, before_run: Hook | None = None
) -> Step:
    tables = torch.from_numpy(logits_MVK).to(device)
    members = tuple(
        Member(
            TableModule(table_VK, index, before_run, can_raise=device.type == "cpu"), plan.members[index].temperature
        )
        for index, table_VK in enumerate(tables)
    )
    return Step(DeviceSlab(plan, num_slots, device), members, plan.combine, plan.confidence)


def make_torch_bench(
    device: str,
    plan: Plan | None = None,
    *,
    table: FloatArray | None = None,
    before_run: Hook | None = None,
    clock: Callable[[], float] = time.monotonic,
    **config: float,
) -> Bench:
    """As ``make_table_bench``; on CUDA the graphs are captured here."""
    plan = plan or make_plan()
    logits_MVK = random_table() if table is None else table
    engine_config = EngineConfig(**config)  # type: ignore[arg-type]
    found = torch.device(device)
    step = make_table_step(plan, logits_MVK, found, engine_config.max_queue_rows, before_run)
    watcher = Watcher()
    engine = DeviceEngine(
        plan,
        make_executor(step, engine_config, found),
        config=engine_config,
        fingerprint=Fingerprint(engine="torch", precision="fp32"),
        observer=watcher,
        clock=clock,
    )
    if found.type == "cuda":
        engine.warm_up()
    return Bench(engine, [], watcher, plan, logits_MVK)

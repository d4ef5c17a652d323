"""A committee of lookup tables: a row's one pixel says what each member answers."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cascade_serve.core.arrays import FloatArray, ImageArray
from cascade_serve.core.combine import Combine
from cascade_serve.core.confidence import Confidence
from cascade_serve.core.plan import Certificate, Fingerprint, Member, Plan, Policy, Promise, Stage, Task
from cascade_serve.core.request import Reply
from cascade_serve.engine.committee import CommitteeEngine
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.errors import MemberError

if TYPE_CHECKING:
    from cascade_serve.engine.cuda.engine import DeviceEngine

CLASSES = 3
FLOPS = (100, 250, 700)
POISON = 255


def make_plan(
    combine: Combine = Combine.MEAN_PROBS,
    confidence: Confidence = Confidence.MAX_PROB,
    thresholds: Sequence[float] = (0.7, 0.6),
) -> Plan:
    names = ("small", "middle", "large")
    members = tuple(Member(name=name, flops=flops, files={}) for name, flops in zip(names, FLOPS, strict=True))
    certificate = Certificate(
        promise=Promise.MIN_ACCURACY, bound=0.5, level=0.95, lower_bound=0.6, n=9, reference=None, data_sha256="0"
    )

    def policy(name: str, stages: Sequence[int]) -> Policy:
        gates = [*thresholds[: len(stages) - 1], None]
        return Policy(
            name=name,
            stages=tuple(Stage(member=names[m], threshold=t) for m, t in zip(stages, gates, strict=True)),
            worst_case_flops=sum(FLOPS[m] for m in stages),
            certificate=certificate,
        )

    return Plan(
        task=Task(height=1, width=1, channels=1, classes=("a", "b", "c")),
        members=members,
        combine=combine,
        confidence=confidence,
        policies={
            name: policy(name, stages)
            for name, stages in {"default": (0, 1, 2), "short": (0, 2), "back": (2, 0), "alone": (1,)}.items()
        },
    )


class TableRunner:
    """Answers from a table; raises on any batch that holds a poisoned row."""

    def __init__(self, logits_MVK: FloatArray, before_run: Callable[[int, int], None] | None = None) -> None:
        self.logits_MVK = logits_MVK
        self.before_run = before_run
        self.batches: list[tuple[int, int]] = []

    def run(self, member: int, images_BHWC: ImageArray) -> FloatArray:
        values_B = images_BHWC[:, 0, 0, 0]
        self.batches.append((member, len(values_B)))
        if self.before_run is not None:
            self.before_run(member, len(values_B))
        if (values_B == POISON).any():
            raise MemberError("poisoned")
        logits_BK: FloatArray = self.logits_MVK[member, values_B]
        return logits_BK


@dataclass
class Watcher:
    """Keeps what the engine tells its observer."""

    queue_s: list[float] = field(default_factory=list)
    gated: list[tuple[int, float]] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    row_s: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def batch_ran(self, member: str, queue_s_B: Sequence[float], compute_s: float) -> None:
        with self.lock:
            self.queue_s.extend(queue_s_B)

    def rows_gated(self, stage_B: Sequence[int], confidence_B: Sequence[float]) -> None:
        with self.lock:
            self.gated.extend(zip(stage_B, confidence_B, strict=True))

    def request_answered(self, reply: Reply, row_s_B: Sequence[float]) -> None:
        assert len(row_s_B) == len(reply.label_B)
        with self.lock:
            self.replies.append(reply)
            self.row_s.extend(row_s_B)


@dataclass
class Bench:
    """An engine, and what stands around it; without runners where it has none."""

    engine: "CommitteeEngine | DeviceEngine"
    runners: list[TableRunner]
    watcher: Watcher
    plan: Plan
    logits_MVK: FloatArray


class MakeBench(Protocol):
    """Builds a :class:`Bench`; ``config`` are fields of EngineConfig."""

    def __call__(
        self,
        plan: Plan | None = None,
        *,
        table: FloatArray | None = None,
        before_run: Callable[[int, int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        **config: float,
    ) -> Bench: ...


def make_table_bench(
    plan: Plan | None = None,
    *,
    table: FloatArray | None = None,
    before_run: Callable[[int, int], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    **config: float,
) -> Bench:
    plan = plan or make_plan()
    logits_MVK = random_table() if table is None else table
    engine_config = EngineConfig(**config)  # type: ignore[arg-type]
    runners = [TableRunner(logits_MVK, before_run) for _ in range(engine_config.workers)]
    watcher = Watcher()
    engine = CommitteeEngine(
        plan,
        runners,
        config=engine_config,
        fingerprint=Fingerprint(engine="table", precision="fp32"),
        observer=watcher,
        clock=clock,
    )
    return Bench(engine, runners, watcher, plan, logits_MVK)


def random_table(seed: int = 0) -> FloatArray:
    logits_MVK = np.random.default_rng(seed).normal(scale=2.0, size=(len(FLOPS), 256, CLASSES))
    return logits_MVK.astype(np.float32)

"""``zoo profile``: members' seconds on this machine, measured side by side, and written on their cards."""
# Shapes: B rows of a batch, K classes, HWC image.

import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

from cascade_serve.core.arrays import FloatArray, ImageArray
from cascade_serve.core.plan import Task
from cascade_serve.engine import onnx, openvino
from cascade_serve.engine.protocol import MAX_THREADS
from cascade_serve.errors import ConfigError
from cascade_serve.planner.zoo_rows import choose_zoo_members, read_zoo_task
from model_zoo.store import ZooMember, replace_card

MAX_BATCH_SIZE = 4096
_ENGINES = (onnx.ENGINE_NAME, openvino.ENGINE_NAME)

Begin = Callable[[int], Callable[[], None]]
"""Told how many timed stretches there will be; gives what is called after each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileConfig:
    """How members are timed.

    Attributes:
        batch_sizes: rows of one run, each of which is timed.
        threads: inside one run, as ``serve --threads-per-worker`` will have them.
        seconds_per_size: time for one member at one batch size, over all rounds.
        rounds: how often the members are gone over; the median of them counts.
    """

    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    threads: int = 1
    seconds_per_size: float = 0.5
    rounds: int = 5

    def __post_init__(self) -> None:
        sizes = self.batch_sizes
        if not sizes or len(set(sizes)) != len(sizes) or not all(1 <= size <= MAX_BATCH_SIZE for size in sizes):
            raise ValueError(
                f"batch_sizes: got {', '.join(map(str, sizes)) or 'none'}; must be different, from 1 to"
                f" {MAX_BATCH_SIZE}"
            )
        for field in ("threads", "rounds"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: got {getattr(self, field)}; must be at least 1")
        if self.threads > MAX_THREADS:
            raise ValueError(f"threads: got {self.threads}; must be at most {MAX_THREADS}")
        if not (0 < self.seconds_per_size < math.inf):
            raise ValueError(f"seconds_per_size: got {self.seconds_per_size}; must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """What one member takes.

    Attributes:
        member: with its new card.
        seconds: batch size → seconds per image, median over rounds.
        spread: batch size → longest minus shortest round, as a share of the median.
    """

    member: ZooMember
    seconds: dict[int, float]
    spread: dict[int, float]


class _Session(Protocol):
    def logits(self, images_BHWC: ImageArray) -> FloatArray: ...


def profile_members(
    task_path: Path,
    names: Sequence[str] | None,
    config: ProfileConfig,
    begin: Begin,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Profile, ...]:
    """Time members, each on the engine that its card names, and write what they take on their cards.

    Members take turns, so that whatever else the machine does in the meantime falls on all of them.

    Args:
        task_path: ``zoo/<task>``.
        names: which members; None is all.
        config: what is timed, and for how long.
        begin: hears of progress.
        clock: monotonic seconds.

    Raises:
        ConfigError: a member is unknown, or its engine is absent or lacks its precision.
        MemberError: a member can't be run.
        ZooError: a file is broken, or a card can't be written.
    """
    members = choose_zoo_members(task_path, names)
    task = read_zoo_task(task_path)
    sessions = [_open_session(member, task, config.threads) for member in members]
    rounds = _time(sessions, task, config, begin, clock)
    return tuple(
        _write(member, config, {size: rounds[index, size] for size in config.batch_sizes})
        for index, member in enumerate(members)
    )


def _open_session(member: ZooMember, task: Task, threads: int) -> _Session:
    engine, precision, what = member.card.engine, member.card.precision, f"member {member.name!r}"
    if engine == onnx.ENGINE_NAME:
        onnx.check_precision(precision, what)
        return onnx.OnnxSession(member.graph_path, task, threads, onnx.place(onnx.Device.CPU))
    if engine == openvino.ENGINE_NAME:
        openvino.check_precision(precision, what)
        return openvino.open_session(member.graph_path, task, precision=precision, threads=threads)
    raise ConfigError(
        f"{what}: engine: got {engine}; must be {' or '.join(_ENGINES)} to be profiled; name the members that are"
    )


def _time(
    sessions: Sequence[_Session], task: Task, config: ProfileConfig, begin: Begin, clock: Callable[[], float]
) -> dict[tuple[int, int], list[float]]:
    """Give each session's, by index, and each batch size's seconds per image in every round."""
    images_BHWC = np.random.default_rng(0).integers(
        0, 256, (max(config.batch_sizes), *task.image_shape), dtype=np.uint8
    )
    turns = [(index, size) for index in range(len(sessions)) for size in config.batch_sizes]
    for index, size in turns:
        sessions[index].logits(images_BHWC[:size])
    took: dict[tuple[int, int], list[float]] = {turn: [] for turn in turns}
    advance = begin(config.rounds * len(turns))
    for _ in range(config.rounds):
        for index, size in turns:
            duration_s = config.seconds_per_size / config.rounds
            took[index, size].append(_stretch(sessions[index], images_BHWC[:size], duration_s, clock))
            advance()
    return took


def _stretch(session: _Session, images_BHWC: ImageArray, duration_s: float, clock: Callable[[], float]) -> float:
    """Run again and again for some seconds, at least once, and give the seconds per image."""
    started_s = now_s = clock()
    runs = 0
    while not runs or now_s - started_s < duration_s:
        session.logits(images_BHWC)
        runs += 1
        now_s = clock()
    return (now_s - started_s) / (runs * len(images_BHWC))


def _write(member: ZooMember, config: ProfileConfig, rounds: dict[int, list[float]]) -> Profile:
    seconds = {size: statistics.median(times) for size, times in rounds.items()}
    threads = f"{config.threads} thread{'s' if config.threads > 1 else ''}"
    engine = member.card.engine
    cost = member.card.cost.model_copy(
        update={"seconds": seconds, "profiled_on": f"{_processor()}, {threads}, {engine} {_version(engine)}"}
    )
    return Profile(
        member=replace_card(member, member.card.model_copy(update={"cost": cost})),
        seconds=seconds,
        spread={size: (max(times) - min(times)) / seconds[size] for size, times in rounds.items()},
    )


def _version(package: str) -> str:
    # Asked of the module: ONNX Runtime's distributions have several names. OpenVINO adds its commit after a dash.
    return str(import_module(package).__version__).partition("-")[0]


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

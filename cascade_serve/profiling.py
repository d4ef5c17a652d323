"""``zoo profile``: members' seconds on this machine, measured side by side, and written on their cards."""
# Shapes: B rows of a batch, K classes, HWC image.

import math
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cascade_serve.core.arrays import ImageArray
from cascade_serve.core.plan import Task
from cascade_serve.engine import onnx, openvino
from cascade_serve.engine.onnx import Device
from cascade_serve.engine.protocol import MAX_THREADS
from cascade_serve.errors import ConfigError, MemberError, MissingExtraError
from cascade_serve.planner.zoo_rows import choose_zoo_members, read_zoo_task
from model_zoo.store import ZooMember, replace_card

if TYPE_CHECKING:
    from cascade_serve.engine.cuda import SoloDevice

MAX_BATCH_SIZE = 4096
BATCH_SIZES: Mapping[Device, tuple[int, ...]] = {
    Device.CPU: (1, 2, 4, 8, 16, 32),
    Device.CUDA: (1, 2, 4, 8, 16, 32, 64, 128, 256),
}
"""Rows of one run that are timed unless told otherwise: as far as batches pay, and so are formed, on such a device."""
_TORCH = "torch"
_GPUS = Path("/proc/driver/nvidia/gpus")

Begin = Callable[[int], Callable[[], None]]
"""Told how many timed stretches there will be; gives what is called after each."""
_Run = Callable[[], object]
"""Runs a member once, to the end."""
_Prepare = Callable[[ImageArray], _Run]
"""Makes a member ready for a batch, uint8 [B, H, W, C]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileConfig:
    """How members are timed.

    Attributes:
        batch_sizes: rows of one run, each of which is timed.
        threads: inside one run, as ``serve --threads-per-worker`` will have them.
        device: where members run.
        device_id: which CUDA device.
        seconds_per_size: time for one member at one batch size, over all rounds.
        rounds: how often the members are gone over; the median of them counts.
    """

    batch_sizes: tuple[int, ...] = BATCH_SIZES[Device.CPU]
    threads: int = 1
    device: Device = Device.CPU
    device_id: int = 0
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
        if self.device_id < 0:
            raise ValueError(f"device_id: got {self.device_id}; must be at least 0")
        if self.device_id and self.device is Device.CPU:
            raise ValueError(f"device_id: got {self.device_id} on cpu; only CUDA devices have one, so must be 0")
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
        ConfigError: a member is unknown, or its engine is absent or lacks its precision or the device.
        BundleError: a member's graph or weights can't be loaded.
        MemberError: a member can't be run.
        ZooError: a file is broken, or a card can't be written.
    """
    members = choose_zoo_members(task_path, names)
    task = read_zoo_task(task_path)
    torch = _open_torch(members, config)
    prepare = {member.name: _open(member, task, config, torch) for member in members}
    rounds = _time(prepare, task, config, begin, clock)
    return tuple(
        _write(member, config, torch, {size: rounds[member.name, size] for size in config.batch_sizes})
        for member in members
    )


def _open_torch(members: Sequence[ZooMember], config: ProfileConfig) -> "SoloDevice | None":
    """Open the device in torch, where a member is for torch; all others need none installed."""
    if all(member.card.engine != _TORCH for member in members):
        return None
    if find_spec(_TORCH) is None:
        raise MissingExtraError(_TORCH, "torch")
    from cascade_serve.engine.cuda import SoloDevice

    return SoloDevice("cpu" if config.device is Device.CPU else f"cuda:{config.device_id}", config.threads)


def _open(member: ZooMember, task: Task, config: ProfileConfig, torch: "SoloDevice | None") -> _Prepare:
    precision, what = member.card.precision, f"member {member.name!r}"
    if member.card.engine == onnx.ENGINE_NAME:
        onnx.check_precision(precision, what)
        placement = onnx.place(config.device, config.device_id)
        session = onnx.OnnxSession(member.graph_path, task, config.threads, placement)
        return lambda images_BHWC: partial(session.logits, images_BHWC)
    if member.card.engine == openvino.ENGINE_NAME:
        if config.device is not Device.CPU:
            raise ConfigError(f"{what}: device: got {config.device.value!r}; the openvino engine runs on 'cpu' alone")
        openvino.check_precision(precision, what)
        compiled = openvino.open_session(member.graph_path, task, precision=precision, threads=config.threads)
        return lambda images_BHWC: partial(compiled.logits, images_BHWC)
    assert torch is not None, "opened where a member is for torch"
    return torch.load(member.path, precision)


def _time(
    prepare: Mapping[str, _Prepare], task: Task, config: ProfileConfig, begin: Begin, clock: Callable[[], float]
) -> dict[tuple[str, int], list[float]]:
    """Give each member's and each batch size's seconds per image in every round."""
    images_BHWC = np.random.default_rng(0).integers(
        0, 256, (max(config.batch_sizes), *task.image_shape), dtype=np.uint8
    )
    turns = [(name, size) for name in prepare for size in config.batch_sizes]
    # From large to small, as small batches find room in the memory that large ones needed.
    runs = {
        (name, size): _warm_up(prepare[name], name, images_BHWC[:size])
        for name, size in sorted(turns, key=lambda turn: turn[1], reverse=True)
    }
    took: dict[tuple[str, int], list[float]] = {turn: [] for turn in turns}
    advance = begin(config.rounds * len(turns))
    for _ in range(config.rounds):
        for name, size in turns:
            stretch_s = _stretch(runs[name, size], config.seconds_per_size / config.rounds, clock)
            took[name, size].append(stretch_s / size)
            advance()
    return took


def _warm_up(prepare: _Prepare, name: str, images_BHWC: ImageArray) -> _Run:
    try:
        run = prepare(images_BHWC)
        run()
    except MemberError as error:
        raise MemberError(f"member {name!r}, {len(images_BHWC)} in a run: {error}") from error
    return run


def _stretch(run: _Run, duration_s: float, clock: Callable[[], float]) -> float:
    """Run again and again for some seconds, at least once, and give the seconds of a run."""
    started_s = now_s = clock()
    runs = 0
    while not runs or now_s - started_s < duration_s:
        run()
        runs += 1
        now_s = clock()
    return (now_s - started_s) / runs


def _write(
    member: ZooMember, config: ProfileConfig, torch: "SoloDevice | None", rounds: dict[int, list[float]]
) -> Profile:
    seconds = {size: statistics.median(times) for size, times in rounds.items()}
    threads = f"{config.threads} thread{'s' if config.threads > 1 else ''}"
    engine = member.card.engine
    place = _processor()
    if config.device is Device.CUDA:
        gpu = torch.gpu if torch is not None and engine == _TORCH else _gpu(config.device_id)
        place = f"{gpu} beside {place}"
    cost = member.card.cost.model_copy(
        update={
            "seconds": seconds,
            "profiled_on": f"{place}, {threads}, {engine} {_version(engine)}",
            "profiled_device": config.device.value,
        }
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
    name = _fact(facts, "model name") if facts.exists() else None
    return name or platform.processor() or platform.machine()


def _gpu(device_id: int) -> str:
    """Name a GPU without torch, by what the driver says."""
    names = {_fact(facts, "Model") for facts in _GPUS.glob("*/information")}
    # Where several kinds are there, which of them CUDA gives a number is not said.
    name = names.pop() if len(names) == 1 else None
    return name or f"cuda:{device_id}"


def _fact(facts: Path, label: str) -> str | None:
    for line in facts.read_text(encoding="utf-8").splitlines():
        if line.startswith(label):
            return line.partition(":")[2].strip()
    return None

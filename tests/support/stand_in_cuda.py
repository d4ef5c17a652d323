"""Stands in for torch's CUDA on a machine without it, so that the code around it runs: nothing here is asynchronous.

Host and device buffers are apart, as there, and what a lane does in which order is written down.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import pytest
import torch

from cascade_serve.engine.cuda.step import Step
from model_zoo.served import ServedModule


@dataclass
class StandIn:
    """What happened, in order; and the graph that is being captured."""

    log: list[tuple[object, ...]] = field(default_factory=list)
    capturing: "Graph | None" = None
    is_in_step: bool = False
    allocations: int = 0


class Stream:
    def __init__(self, house: StandIn, name: str) -> None:
        self.house, self.name = house, name

    def wait_stream(self, other: "Stream") -> None:
        self.house.log.append(("wait", self.name, other.name))

    def synchronize(self) -> None:
        assert self.house.capturing is None, "a capture may not synchronise"
        self.house.log.append(("synchronize", self.name))


class Event:
    def __init__(self, house: StandIn) -> None:
        self.house = house

    def record(self, stream: Stream) -> None:
        self.house.log.append(("record", stream.name))

    def synchronize(self) -> None:
        assert self.house.capturing is None, "a capture may not synchronise"
        self.house.log.append(("wait for event",))


class Graph:
    def __init__(self, house: StandIn) -> None:
        self.house = house
        self.steps: list[Callable[[], None]] = []

    def replay(self) -> None:
        self.house.log.append(("replay",))
        assert len(self.steps) == 1, "captured once, and not reset"
        assert torch.is_inference_mode_enabled(), "counters of random numbers were made in it, and are written here"
        self.steps[0]()

    def reset(self) -> None:
        self.steps.clear()


def install(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Put the stand-in in the place of ``torch.cuda``, until the test ends."""
    house = StandIn()
    pools = iter(f"pool {index}" for index in range(1000))
    # As torch's: the same again and again.
    streams = cycle([Stream(house, f"stream {index}") for index in range(32)])
    default = Stream(house, "default")
    real_zeros, real_run = torch.zeros, Step.run
    real_to: Callable[..., torch.Tensor] = torch.Tensor.to
    real_call = ServedModule.__call__

    def zeros(*size: Any, device: object = None, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        return real_zeros(*size, **options)

    def to(tensor: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        return real_to(tensor, *map(_here, arguments), **{name: _here(option) for name, option in options.items()})

    def run(step: Step, *arguments: Any) -> None:
        house.is_in_step = True
        try:
            real_run(step, *arguments)
        finally:
            house.is_in_step = False
        if house.capturing is not None:
            house.capturing.steps.append(lambda: real_run(step, *arguments))

    def call(network: ServedModule, *arguments: Any) -> Any:
        if house.capturing is not None and not house.is_in_step:
            house.capturing.steps.append(lambda: real_call(network, *arguments))
        return real_call(network, *arguments)

    @contextmanager
    def graph(captured: Graph, *, pool: object, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        assert house.capturing is None, "one capture at a time"
        assert capture_error_mode == "thread_local"
        house.log.append(("capture", stream.name, pool))
        house.capturing = captured
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError("operation failed due to a previous error during capture") from error
        finally:
            house.capturing = None

    replacements: dict[str, object] = {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "get_device_name": lambda device: f"Stand-In {device.index}",
        "Stream": lambda _device: next(streams),
        "current_stream": lambda _device: default,
        "Event": lambda: Event(house),
        "CUDAGraph": lambda: Graph(house),
        "graph_pool_handle": lambda: next(pools),
        "graph": graph,
        "stream": lambda _stream: nullcontext(),
        "device": lambda _device: nullcontext(),
        "synchronize": lambda _device: None,
    }
    for name, replacement in replacements.items():
        monkeypatch.setattr(torch.cuda, name, replacement)
    monkeypatch.setattr(torch, "zeros", zeros)
    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(Step, "run", run)
    monkeypatch.setattr(ServedModule, "__call__", call)
    return house


def _here(option: object) -> object:
    return torch.device("cpu") if isinstance(option, torch.device) else option

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


@dataclass
class StandIn:
    """What happened, in order; and the graph that is being captured."""

    log: list[tuple[object, ...]] = field(default_factory=list)
    capturing: "Graph | None" = None
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
        with torch.inference_mode():
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

    def zeros(*size: Any, device: object = None, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        return real_zeros(*size, **options)

    def run(step: Step, *arguments: Any) -> None:
        real_run(step, *arguments)
        if house.capturing is not None:
            house.capturing.steps.append(lambda: real_run(step, *arguments))

    @contextmanager
    def graph(captured: Graph, *, pool: object, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        assert house.capturing is None, "one capture at a time"
        assert capture_error_mode == "thread_local"
        house.log.append(("capture", stream.name, pool))
        house.capturing = captured
        try:
            yield
        finally:
            house.capturing = None

    replacements: dict[str, object] = {
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
    monkeypatch.setattr(Step, "run", run)
    return house

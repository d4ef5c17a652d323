"""The ceiling: CUDA graphs, one after the other, with nothing in between."""
# Shapes: B rows, K classes, HWC image.

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.pairs import NUM_CLASSES
from cascade_serve.engine.cuda.lane import Port, padding_load


def replay_s(bench: Bench, member: int, rows: int, seconds: float, *, network_alone: bool = False) -> float:
    """Time one batch of back-to-back replays: the whole step, or its network without gather and gate."""
    port = Port(rows, NUM_CLASSES, bench.device, bench.step.slab.padding_slot)
    # Rows apart, as the engine's are: one and the same would stay in the cache.
    port.fill(replace(padding_load(rows, bench.step.slab.padding_slot), slot_B=np.arange(rows)))
    port.inputs.data.copy_(port.host_inputs.data)
    images_BHWC = bench.step.slab.images_RHWC[:rows].clone()
    module = bench.step.members[member].module

    def run() -> None:
        if network_alone:
            port.probabilities_BK.copy_(module(images_BHWC))
        else:
            bench.step.run(member, port.inputs.columns, port.outputs.columns, port.probabilities_BK)

    with torch.inference_mode():
        return time_eager(run, seconds) if bench.device.type == "cpu" else _time_graph(run, bench.device, seconds)


def time_eager(run: Callable[[], None], seconds: float) -> float:
    run()
    started_s, count = time.perf_counter(), 0
    while time.perf_counter() - started_s < seconds:
        run()
        count += 1
    return (time.perf_counter() - started_s) / count


def _time_graph(run: Callable[[], None], device: torch.device, seconds: float) -> float:
    stream, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
        stream.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            run()
        graph.replay()
        stream.synchronize()
        started_s, count = time.perf_counter(), 0
        while time.perf_counter() - started_s < seconds:
            # The queue to the device stays filled, and the clock is asked seldom.
            for _ in range(20):
                graph.replay()
            stream.synchronize()
            count += 20
        return (time.perf_counter() - started_s) / count

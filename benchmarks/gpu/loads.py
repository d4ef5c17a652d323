"""The engine under load: client threads that call it within the process."""
# Shapes: B rows of one request.

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from benchmarks.gpu.bench import Bench
from cascade_serve.core.request import Request, Terms


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the clients do.

    Attributes:
        threads: requests in flight.
        rows: images of one request.
        threshold: of the first stage.
        wants_probabilities: of all classes.
    """

    threads: int
    rows: int
    threshold: float
    wants_probabilities: bool = True


def threshold_for(bench: Bench, share: float) -> float:
    """Give a threshold that lets about a share of the rows out."""
    if share in (0.0, 1.0):
        # A threshold of 1 is reached by none but certain rows, and 0 by all.
        return 1.0 - share
    request = Request(images_BHWC=bench.images_NHWC, terms=Terms(confidence_threshold=0.0))
    return float(np.quantile(bench.engine.admit(request).result().confidence_B, 1 - share))


def throughput(bench: Bench, load: Load, seconds: float) -> tuple[float, float]:
    """Keep some requests in flight; give answered images a second, and the share of them that left after one stage."""
    counts_from_s = time.perf_counter() + seconds / 5
    ends_s = counts_from_s + seconds

    def client(index: int) -> tuple[int, int]:
        answered = left = 0
        start = index * load.rows % (len(bench.images_NHWC) - load.rows + 1)
        request = Request(
            images_BHWC=bench.images_NHWC[start : start + load.rows],
            terms=Terms(confidence_threshold=load.threshold),
            wants_probabilities=load.wants_probabilities,
        )
        while True:
            reply = bench.engine.admit(request).result()
            now_s = time.perf_counter()
            if now_s >= ends_s:
                return answered, left
            if now_s >= counts_from_s:
                answered += load.rows
                left += load.rows - int(np.count_nonzero(reply.exit_stage_B))

    with ThreadPoolExecutor(load.threads) as clients:
        answered, left = map(sum, zip(*clients.map(client, range(load.threads)), strict=True))
    if not answered:
        raise RuntimeError(f"nothing was answered within {seconds} s; give more --seconds")
    return answered / seconds, left / answered


def latencies_ms(bench: Bench, threshold: float, seconds: float) -> tuple[float, float]:
    """Give median and 99th percentile of single images, one after the other, in milliseconds."""
    taken: list[float] = []
    ends_s = time.perf_counter() + seconds
    while (started_s := time.perf_counter()) < ends_s:
        row = len(taken) % len(bench.images_NHWC)
        request = Request(images_BHWC=bench.images_NHWC[row : row + 1], terms=Terms(confidence_threshold=threshold))
        bench.engine.admit(request).result()
        taken.append(1e3 * (time.perf_counter() - started_s))
    return statistics.median(taken), float(np.quantile(taken, 0.99))

"""Throughput and latency through the server, beside the raw ONNX Runtime loop over the same rows on the same cores.

The raw loop knows beforehand at which stage each row exits, and does nothing but run sessions, so it is what the
machine could do if protocol, scheduling, gate and client cost nothing. Server, client and raw loop share the cores.
Runs are interleaved (server, raw, server, raw, ...), and the ratio is taken within each pair.

    python -m benchmarks.serving REPOSITORY/CASCADE/VERSION IMAGES [--policy default] [--processes 1] [--repeats 5]
        [--seconds 4]
"""
# Shapes: N images, B rows of one request, HWC image.

import argparse
import json
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from benchmarks.environment import describe
from benchmarks.server import COMMAND, RunningServer, family_of, serve
from cascade_serve.bundle import Bundle, load_bundle
from cascade_serve.core.arrays import ImageArray, IntArray
from cascade_serve.core.plan import Fingerprint
from cascade_serve.core.request import Request, Terms
from cascade_serve.core.route import Route, make_route
from cascade_serve.engine.committee import CommitteeEngine
from cascade_serve.engine.onnx import ENGINE_NAME, Device, make_runners
from cascade_serve.engine.protocol import EngineConfig, Runner
from cascade_serve.metrics import Metrics
from model_zoo.image_folder import read_images, scan_image_folder

_MAX_IMAGES = 2_000


@dataclass(frozen=True, kw_only=True)
class Load:
    """A closed loop: ``concurrency`` callers, each with one request of ``images_per_request`` at a time."""

    concurrency: int
    images_per_request: int


LOADS = (
    Load(concurrency=1, images_per_request=1),
    Load(concurrency=8, images_per_request=1),
    Load(concurrency=32, images_per_request=1),
    Load(concurrency=8, images_per_request=16),
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One run through the server, and one raw run beside it."""

    images_per_s: float
    p50_ms: float
    p99_ms: float
    server_cpu_ms: float
    raw_images_per_s: float


class RawLoop:
    """Runs the sessions alone, over rows whose exit stages are known."""

    def __init__(self, bundle: Bundle, images_NHWC: ImageArray, policy: str) -> None:
        self._images_NHWC = images_NHWC
        self._route: Route = make_route(bundle.plan, Terms(policy=policy))
        self._runners = make_runners(bundle, EngineConfig(workers=os.cpu_count() or 1), Device.CPU)
        self.exit_stage_N = self._exit_stages(bundle, policy)

    def _exit_stages(self, bundle: Bundle, policy: str) -> IntArray:
        engine = CommitteeEngine(
            bundle.plan,
            self._runners[:1],
            config=EngineConfig(max_queue_rows=len(self._images_NHWC)),
            fingerprint=Fingerprint.of(ENGINE_NAME, bundle.plan.members),
            observer=Metrics(CollectorRegistry()).observer(bundle.name, bundle.plan),
        )
        return engine.admit(Request(images_BHWC=self._images_NHWC, terms=Terms(policy=policy))).result().exit_stage_B

    def run(self, load: Load, seconds: float) -> float:
        """Give images a second, with as many threads as the load can keep busy."""
        num_threads = min(load.concurrency, len(self._runners))
        counts = [0] * num_threads
        start_s = time.perf_counter()

        def loop(thread: int) -> None:
            batches = self._batches(load.images_per_request, thread)
            while time.perf_counter() - start_s < seconds:
                counts[thread] += self._run_batch(self._runners[thread], next(batches))

        threads = [threading.Thread(target=loop, args=(thread,)) for thread in range(num_threads)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        return sum(counts) / (time.perf_counter() - start_s)

    def _batches(self, rows: int, seed: int) -> Iterator[IntArray]:
        rng = np.random.default_rng(seed)
        while True:
            order = rng.permutation(len(self._images_NHWC))
            yield from (order[first : first + rows] for first in range(0, len(order) - rows + 1, rows))

    def _run_batch(self, runner: Runner, batch: IntArray) -> int:
        for stage, member in enumerate(self._route.members):
            staying = batch[self.exit_stage_N[batch] >= stage]
            if len(staying):
                runner.run(member, self._images_NHWC[staying])
        return len(batch)


def measure(server: RunningServer, arguments: argparse.Namespace, raw: RawLoop, load: Load) -> Pair:
    """Run once through the server and once without it."""
    cpu_s = _cpu_s(server.pid)
    report = _bench(server.address, arguments, load)
    cpu_s = _cpu_s(server.pid) - cpu_s
    return Pair(
        images_per_s=report["images_per_s"],
        p50_ms=report["latency_ms"]["p50"],
        p99_ms=report["latency_ms"]["p99"],
        server_cpu_ms=1e3 * cpu_s / max(1.0, report["images_per_s"] * (arguments.seconds + arguments.warm_up)),
        raw_images_per_s=raw.run(load, arguments.seconds),
    )


def _bench(address: str, arguments: argparse.Namespace, load: Load) -> dict[str, Any]:
    command = [*COMMAND, "bench", "--url", address, "--model", arguments.bundle.parent.name, "--json", "-"]
    command += ["--policy", arguments.policy, "--data", str(arguments.images), "--seconds", str(arguments.seconds)]
    command += ["--concurrency", str(load.concurrency), "--images-per-request", str(load.images_per_request)]
    command += ["--warm-up", str(arguments.warm_up)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _cpu_s(pid: int) -> float:
    """Give the processor seconds that a process and those that it started have used so far (Linux)."""
    stats = [Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split() for each in family_of(pid)]
    return sum(int(fields[11]) + int(fields[12]) for fields in stats) / os.sysconf("SC_CLK_TCK")


def _row(load: Load, pairs: list[Pair]) -> str:
    def median(name: str) -> float:
        return float(statistics.median(getattr(pair, name) for pair in pairs))

    ratios = sorted(pair.images_per_s / pair.raw_images_per_s for pair in pairs)
    cells = [
        f"{load.concurrency}",
        f"{load.images_per_request}",
        f"{median('images_per_s'):,.0f}",
        f"{median('raw_images_per_s'):,.0f}",
        f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        f"{median('p50_ms'):.2f}",
        f"{median('p99_ms'):.2f}",
        f"{median('server_cpu_ms'):.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="REPOSITORY/CASCADE/VERSION")
    parser.add_argument("images", type=Path, help="image folder, <class>/<file>")
    parser.add_argument("--policy", default="default")
    parser.add_argument("--processes", type=int, default=1, help="of the server")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds")
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.bundle)
    height, width, channels = bundle.plan.task.image_shape
    folder = scan_image_folder(arguments.images)
    images_NHWC = read_images(folder, height=height, width=width, channels=channels).images_NHWC
    chosen = np.random.default_rng(0).permutation(len(images_NHWC))[:_MAX_IMAGES]
    raw = RawLoop(bundle, images_NHWC[chosen], arguments.policy)
    shares = np.bincount(raw.exit_stage_N) / len(raw.exit_stage_N)
    print(f"{describe()}; {bundle.name}, policy {arguments.policy}, exits {np.round(shares, 3).tolist()},")
    print(f"{arguments.processes} server process{'es' * (arguments.processes > 1)},")
    print(f"medians of {arguments.repeats} interleaved runs of {arguments.seconds:g} s (smallest to largest ratio)\n")
    print("| concurrency | images a request | images/s | raw loop | ratio | p50 ms | p99 ms | server CPU ms an image |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with serve(arguments.bundle.parent.parent, processes=arguments.processes) as server:
        for load in LOADS:
            pairs = [measure(server, arguments, raw, load) for _ in range(arguments.repeats)]
            print(_row(load, pairs), flush=True)


if __name__ == "__main__":
    main()

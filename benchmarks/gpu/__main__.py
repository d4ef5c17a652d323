"""The torch engine on one GPU, against back-to-back graph replays of the same rows in the same buckets.

Networks have random weights, so no threshold means anything: one is taken that lets a fixed share of the rows out
after the first stage, as only time is asked. Client threads call the engine within the process; no wire is measured.

    python -m benchmarks.gpu [--seconds 1.5] [--pairs resnet,efficientnet,vit] [--precisions bf16,fp16,fp32]

Prints Markdown, each pair's as soon as it is measured. It begins nothing after ``--limit-s`` seconds, 420 by default.
``--device cpu`` tries the script where there is no GPU.

Run it from the root of the repository; the package need not be installed. It needs torch, numpy, pydantic, safetensors,
timm and torchvision; onnxruntime-gpu, onnx and onnxscript for ONNX Runtime's rows of the last table, and TensorRT for
some of these; and neither gRPC nor Ray. What a machine without a network lacks can be brought along, built for the
Python there. Pydantic, for instance, which has a compiled part:

    pip install --target DIR --python-version 3.12 --only-binary=:all: pydantic
    PYTHONPATH=DIR python -m benchmarks.gpu
"""

import argparse
import statistics
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

import torch

from benchmarks.gpu import onnx_runtime
from benchmarks.gpu.bench import Bench, opened
from benchmarks.gpu.loads import Load, latencies_ms, threshold_for, throughput
from benchmarks.gpu.pairs import PAIRS, Pair
from benchmarks.gpu.replays import replay_s
from benchmarks.gpu.tables import first_line, table
from cascade_serve.engine.cuda.network import DTYPES
from cascade_serve.engine.tensorrt import forbid_tf32
from cascade_serve.errors import CascadeError
from model_zoo.errors import ZooError

EXIT_SHARE = 0.8
EXIT_SHARES = (1.0, 0.9, 0.8, 0.5, 0.0)
SUMMARY_HEAD = (
    "pair",
    "precision",
    "exits",
    "images/s",
    "of replays of whole steps",
    "of replays of networks alone",
    "images/s, 64 requests of 1",
    "1 image, ms, p50 / p99",
    "its graph alone, ms",
)


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """Seconds of one batch of back-to-back replays, of each network.

    Attributes:
        steps_s: whole steps, full batches.
        alone_s: networks without gather and gate, full batches.
        single_s: whole steps, one row.
    """

    steps_s: tuple[float, ...]
    alone_s: tuple[float, ...]
    single_s: tuple[float, ...]


def measure(
    name: str, precision: str, arguments: argparse.Namespace, device: torch.device
) -> tuple[list[object], list[object]]:
    """Measure one pair in one precision: prints its second stage's cost, gives its rows of summary and runtimes."""
    pair = pair_of(name, arguments)
    with opened(pair, precision, device, arguments.lanes) as bench:
        ceilings = measure_ceilings(bench, arguments.seconds)
        table(
            f"{name}, {precision}: what the second stage costs",
            ["exits", "images/s", "µs an image", "µs by replays", "share of the replays' throughput"],
            [cost_of(bench, share, ceilings, arguments) for share in EXIT_SHARES],
        )
        runtime = "torch, graph replays, no copies"
        rates = [pair.batch_size / alone_s for alone_s in ceilings.alone_s]
        summary = [name, precision, *summary_of(bench, ceilings, arguments)]
        return summary, onnx_runtime.row_of(name, runtime, precision, rates)


def pair_of(name: str, arguments: argparse.Namespace) -> Pair:
    pair = PAIRS[name]
    return replace(pair, batch_size=arguments.batch_size or pair.batch_size)


def measure_ceilings(bench: Bench, seconds: float) -> Ceilings:
    rows = bench.pair.batch_size
    return Ceilings(
        steps_s=tuple(replay_s(bench, member, rows, seconds / 2) for member in range(2)),
        alone_s=tuple(replay_s(bench, member, rows, seconds / 2, network_alone=True) for member in range(2)),
        single_s=tuple(replay_s(bench, member, 1, seconds / 4) for member in range(2)),
    )


def ceiling_of(rows: int, stages_s: tuple[float, ...], left: float) -> float:
    """Give images a second where a share of the rows leaves after the first stage."""
    return rows / (stages_s[0] + (1 - left) * stages_s[1])


def cost_of(bench: Bench, share: float, ceilings: Ceilings, arguments: argparse.Namespace) -> list[object]:
    rows, steps_s = bench.pair.batch_size, ceilings.steps_s
    load = Load(threads=arguments.threads, rows=rows, threshold=threshold_for(bench, share))
    # Some rounds of all requests, however long they take.
    window_s = max(arguments.seconds, 4 * load.threads * (steps_s[0] + (1 - share) * steps_s[1]))
    rate, left = throughput(bench, load, window_s)
    ceiling = ceiling_of(rows, steps_s, left)
    return [f"{left:.0%}", round(rate), 1e6 / rate, 1e6 / ceiling, f"{rate / ceiling:.2f}"]


def summary_of(bench: Bench, ceilings: Ceilings, arguments: argparse.Namespace) -> list[object]:
    rows, seconds = bench.pair.batch_size, arguments.seconds
    threshold = threshold_for(bench, EXIT_SHARE)
    load = Load(threads=arguments.threads, rows=rows, threshold=threshold)
    rate, left = map(statistics.median, zip(*(throughput(bench, load, seconds) for _ in range(3)), strict=True))
    small = Load(threads=64, rows=1, threshold=threshold)
    median_ms, high_ms = latencies_ms(bench, 0.0, seconds)
    return [
        f"{left:.0%}",
        round(rate),
        f"{rate / ceiling_of(rows, ceilings.steps_s, left):.2f}",
        f"{rate / ceiling_of(rows, ceilings.alone_s, left):.2f}",
        round(throughput(bench, small, seconds)[0]),
        f"{median_ms:.2f} / {high_ms:.2f}",
        f"{1e3 * ceilings.single_s[0]:.2f}",
    ]


def measured(
    name: str, precision: str, arguments: argparse.Namespace, device: torch.device
) -> tuple[list[object], list[object]]:
    """Give rows of summary and runtimes, or say there why there are none: what was measured before is not lost."""
    try:
        return measure(name, precision, arguments, device)
    except (CascadeError, ZooError, ImportError, RuntimeError) as error:
        traceback.print_exc()
        reason = first_line(error)
        return [name, precision, reason, *["-"] * (len(SUMMARY_HEAD) - 3)], [name, "torch", precision, "-", "-", reason]


def _names_in(known: Iterable[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"got {', '.join(unknown)}; must be some of {', '.join(known)}")
        return names

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--pairs", type=_names_in(PAIRS), default="resnet,efficientnet,vit")
    parser.add_argument("--precisions", type=_names_in(DTYPES), default="bf16,fp16,fp32")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--lanes", type=int, default=2, help="streams")
    parser.add_argument("--threads", type=int, default=8, help="requests of a full batch each in flight")
    parser.add_argument("--limit-s", type=float, default=420, help="begin nothing after so many seconds")
    parser.add_argument("--tune", action="store_true", help="let cuDNN time its algorithms in warm-up")
    parser.add_argument("--batch-size", type=int, help="largest bucket, in place of each pair's own")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.backends.cudnn.benchmark = arguments.tune
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}; torch {torch.__version__}; {arguments.lanes} lanes; cuDNN tuned: {arguments.tune}")
    ends_s = time.perf_counter() + arguments.limit_s
    # Before anything opens a session.
    forbid_tf32()
    summary: list[list[object]] = []
    runtimes: list[list[object]] = []
    for pair in arguments.pairs:
        for precision in arguments.precisions:
            if time.perf_counter() > ends_s:
                summary.append([pair, precision, *["out of time"] * (len(SUMMARY_HEAD) - 2)])
                continue
            rows = measured(pair, precision, arguments, device)
            summary.append(rows[0])
            runtimes.append(rows[1])
            if device.type == "cuda":
                with suppress(RuntimeError):
                    torch.cuda.empty_cache()
    table(
        f"Throughput and latency, {arguments.threads} requests of a full batch in flight unless said",
        SUMMARY_HEAD,
        summary,
    )
    places = onnx_runtime.runtimes(device.index or 0)
    if not places:
        print("\nONNX Runtime is not here, or without its CUDA provider: install onnxruntime-gpu to compare.")
    for pair in arguments.pairs:
        if time.perf_counter() < ends_s:
            runtimes += onnx_runtime.rows_of(pair, pair_of(pair, arguments), places, arguments.seconds)
    table("Runtimes, full batches, one after the other", onnx_runtime.HEAD, runtimes)


if __name__ == "__main__":
    main()

"""What a server adds to one caller's latency: mean latency over the raw engine's and a bare echo call's, in one run.

    python -m benchmarks.peers.overhead --data DATA [--only ours,plain] [--compute onnxruntime-fp32] [--seconds 2]
        [--repeats 7]

Each repeat goes round the raw loop (sessions alone, in this process, over rows whose exits are known), the echo, an
echo that keeps its core busy for some milliseconds first (which are taken off its latency), and the servers, one after
the other, so that a change of the machine's speed meets all alike.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.environment import describe
from benchmarks.peers.catalogue import choose
from benchmarks.peers.plain import BusyEcho
from benchmarks.peers.running import Contender, Variant, all_stopped, generate
from benchmarks.peers.tables import ECHO
from benchmarks.peers.work import CASCADE, prepare
from benchmarks.serving import Load, RawLoop
from cascade_serve.bundle import load_bundle

RAW = "raw engine"
_ECHOES = (ECHO, BusyEcho.name)
_FLOORS = (RAW, *_ECHOES)
_ONE = Load(concurrency=1, images_per_request=1)


def measure(contenders: Sequence[Contender], raw: RawLoop, *, seconds: float, repeats: int) -> dict[str, list[float]]:
    """Go round all: name → mean milliseconds of a request, by repeat."""
    means_ms: dict[str, list[float]] = {RAW: [], **{contender.variant.peer.name: [] for contender in contenders}}
    for _ in range(repeats):
        means_ms[RAW].append(1e3 / raw.run(_ONE, seconds))
        for contender in contenders:
            with contender.turn() as server:
                job = replace(contender.job(server), seconds=seconds, warm_up_s=0.3, concurrency=1)
                means_ms[contender.variant.peer.name].append(generate(job).mean_ms - 1e3 * _busy_s(contender.variant))
    return means_ms


def _busy_s(variant: Variant) -> float:
    return variant.peer.busy_s if isinstance(variant.peer, BusyEcho) else 0.0


def table(means_ms: Mapping[str, Sequence[float]]) -> str:
    """Write medians as a table in Markdown, and what each server adds to either echo, taken within each repeat."""
    lines = [
        "| what | mean ms | over raw engine + echo, ms | over raw engine + busy echo, ms |",
        "| --- | --- | --- | --- |",
    ]
    for name, each_ms in means_ms.items():
        added = ["", ""] if name in _FLOORS else [_added(means_ms, each_ms, echo) for echo in _ECHOES]
        lines.append(f"| {name} | {statistics.median(each_ms):.2f} | {' | '.join(added)} |")
    return "\n".join(lines)


def _added(means_ms: Mapping[str, Sequence[float]], each_ms: Sequence[float], echo: str) -> str:
    rounds = zip(each_ms, means_ms[RAW], means_ms[echo], strict=True)
    added_ms = sorted(ms - raw_ms - echo_ms for ms, raw_ms, echo_ms in rounds)
    return f"{statistics.median(added_ms):.2f} ({added_ms[0]:.2f} to {added_ms[-1]:.2f})"


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="cifar10-jpeg-*.tar.gz and cifar10-resnet/")
    parser.add_argument("--only", default="ours,plain", help="servers, beside the echo")
    parser.add_argument("--compute", default="onnxruntime-fp32", choices=("onnxruntime-fp32", "onnxruntime-int8"))
    parser.add_argument("--seconds", type=float, default=2.0, help="of a run")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--work", type=Path, default=Path("bench_out/peers/work"))
    parser.add_argument("--out", type=Path, default=Path("bench_out/peers"))
    arguments = parser.parse_args()
    try:
        (echo,) = choose(ECHO, None)
        variants = [echo, replace(echo, peer=BusyEcho()), *choose(arguments.only, arguments.compute)]
    except ValueError as error:
        sys.exit(str(error))
    arguments.out.mkdir(parents=True, exist_ok=True)
    work = prepare(arguments.data, arguments.work, [variant.compute for variant in variants])
    compute = variants[-1].compute
    raw = RawLoop(load_bundle(work.repository(compute) / CASCADE / "1"), np.load(work.images)[:2000], "default")
    contenders = [Contender(variant, work, arguments.out / "servers") for variant in variants]
    with all_stopped(contenders):
        means_ms = measure(contenders, raw, seconds=arguments.seconds, repeats=arguments.repeats)
    print(f"{describe()}; {compute}, one caller, one image a request;")
    print(f"medians of {arguments.repeats} interleaved runs of {arguments.seconds:g} s (least to most)\n")
    print(table(means_ms))


if __name__ == "__main__":
    main()

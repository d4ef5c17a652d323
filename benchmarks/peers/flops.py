"""What saved FLOPs become: time. The cascade beside the equally accurate last member alone, through the same server.

    python -m benchmarks.peers.flops --data DATA [--peer ours] [--compute onnxruntime-fp32] [--seconds 4] [--repeats 5]

Throughput is that of 32 callers, latency the mean that one caller sees; runs of both models alternate, and ratios are
taken within each pair. The FLOP ratio is that of the images that are sent: all of them run the first member, and those
under its threshold the last one too.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.environment import describe
from benchmarks.peers.catalogue import choose
from benchmarks.peers.load import Seen
from benchmarks.peers.peer import Compute
from benchmarks.peers.running import Contender, add_one_server, all_stopped, generate
from benchmarks.peers.work import CASCADE, SINGLE, Work, prepare
from cascade_serve.bundle import load_bundle


@dataclass(frozen=True, kw_only=True)
class Load:
    """Callers in a closed loop, and the figure that is asked of it.

    Attributes:
        name: of the figure.
        concurrency: callers.
        images_per_request: of each.
        figure: of a run.
        gain: how many times better the cascade's figure is than the single member's.
    """

    name: str
    concurrency: int
    images_per_request: int
    figure: Callable[[Seen], float]
    gain: Callable[[float, float], float]


LOADS = (
    Load(
        name="images/s, 32 callers, 1 image a request",
        concurrency=32,
        images_per_request=1,
        figure=lambda seen: seen.images_per_s,
        gain=lambda cascade, single: cascade / single,
    ),
    Load(
        name="images/s, 8 callers, 16 images a request",
        concurrency=8,
        images_per_request=16,
        figure=lambda seen: seen.images_per_s,
        gain=lambda cascade, single: cascade / single,
    ),
    Load(
        name="mean ms, 1 caller, 1 image a request",
        concurrency=1,
        images_per_request=1,
        figure=lambda seen: seen.mean_ms,
        gain=lambda cascade, single: single / cascade,
    ),
)


def flop_ratio(work: Work, compute: Compute) -> float:
    """Give the mean FLOPs per image of the last member alone over the cascade's, on the images that are sent."""
    plan = load_bundle(work.repository(compute) / CASCADE / "1").plan
    first, last = plan.members
    exits = json.loads((work.folder / f"exits-{compute.precision}.json").read_text())
    share: float = exits["exits after the first stage"]
    return last.flops / (first.flops + (1 - share) * last.flops)


def measure(contender: Contender, load: Load, seconds: float, repeats: int) -> dict[str, list[Seen]]:
    """Run both models in turn; give each one's runs."""
    seen: dict[str, list[Seen]] = {CASCADE: [], SINGLE: []}
    with contender.turn() as server:
        for _ in range(repeats):
            for model, runs in seen.items():
                job = contender.job(server, images_per_request=load.images_per_request, model=model)
                runs.append(generate(replace(job, seconds=seconds, concurrency=load.concurrency)))
    return seen


def print_row(load: Load, seen: dict[str, list[Seen]], flops: float) -> None:
    """Print one load."""
    figures = {model: [load.figure(one) for one in runs] for model, runs in seen.items()}
    gains = [load.gain(cascade, single) for cascade, single in zip(figures[CASCADE], figures[SINGLE], strict=True)]
    gain = statistics.median(gains)
    cells = [
        load.name,
        *(f"{statistics.median(figures[model]):,.4g}" for model in (CASCADE, SINGLE)),
        f"{gain:.2f} ({min(gains):.2f} to {max(gains):.2f})",
        f"{flops:.2f}",
        f"{gain / flops:.2f}",
        *(f"{100 * _accuracy(seen[model]):.2f}" for model in (CASCADE, SINGLE)),
    ]
    print(f"| {' | '.join(cells)} |")


def _accuracy(runs: Sequence[Seen]) -> float:
    return sum(run.accuracy * run.requests for run in runs) / sum(run.requests for run in runs)


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_one_server(parser, repeats=5)
    arguments = parser.parse_args()
    (variant,) = choose(arguments.peer, arguments.compute)
    arguments.out.mkdir(parents=True, exist_ok=True)
    work = prepare(arguments.data, arguments.work, [variant.compute])
    contender = Contender(variant, work, arguments.out / "servers")
    flops = flop_ratio(work, variant.compute)
    print(f"{describe()}; {variant.peer.describe()}; {variant.compute};")
    print(f"medians of {arguments.repeats} runs of {arguments.seconds:g} s, in turn; gain: median (least to most)\n")
    print("| figure | cascade | single | gain | FLOP ratio | gain / FLOP ratio | accuracy %, cascade | single |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with all_stopped([contender]):
        for load in LOADS:
            print_row(load, measure(contender, load, arguments.seconds, arguments.repeats), flops)


if __name__ == "__main__":
    main()

"""What a cascade is good for under a latency objective: ours beside the last member alone, through the same server.

    python -m benchmarks.peers.objective --data DATA [--objective-ms 50] [--compute onnxruntime-fp32] [--seconds 4]
        [--repeats 3]

Both are offered the same Poisson arrivals, at shares of the cascade's own peak. *Goodput* is what is answered within
the objective; accuracies stand beside it, so that equal ones can be seen to be equal.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.environment import describe
from benchmarks.peers.catalogue import choose
from benchmarks.peers.load import Seen
from benchmarks.peers.running import Contender, add_one_server, all_stopped, generate
from benchmarks.peers.tables import images_a_core_second
from benchmarks.peers.work import CASCADE, SINGLE, prepare

_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_PEAK_CONCURRENCY = 32
_MODELS = (CASCADE, SINGLE)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One rate, offered to one model.

    Attributes:
        model: the cascade, or the last member alone.
        rate: images a second that came.
        seen: of each repeat.
    """

    model: str
    rate: float
    seen: tuple[Seen, ...]

    def median(self, value: Callable[[Seen], float]) -> float:
        """Give the median over the repeats."""
        return float(statistics.median(value(each) for each in self.seen))


def measure(contender: Contender, arguments: argparse.Namespace) -> list[Point]:
    """Offer all rates to both models, one after the other, as often as there are repeats."""
    with contender.turn() as server:
        jobs = {
            model: replace(
                contender.job(server, model=model), seconds=arguments.seconds, objective_s=arguments.objective_ms / 1e3
            )
            for model in _MODELS
        }
        peak = generate(replace(jobs[CASCADE], concurrency=_PEAK_CONCURRENCY)).images_per_s
        points = []
        for share in _SHARES:
            seen: dict[str, list[Seen]] = {model: [] for model in _MODELS}
            for repeat in range(arguments.repeats):
                for model in _MODELS:
                    seen[model].append(generate(replace(jobs[model], rate=share * peak, seed=repeat)))
            points += [Point(model=model, rate=share * peak, seen=tuple(seen[model])) for model in _MODELS]
    return points


def print_table(points: Sequence[Point], objective_ms: float) -> None:
    """Print each rate, then the most that each model takes within the objective."""
    print("| images/s offered | model | p50 ms | p99 ms | goodput images/s | images a core-second | accuracy % |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for point in points:
        cells = [
            f"{point.rate:,.0f}",
            point.model,
            f"{point.median(lambda seen: seen.p50_ms):.2f}",
            f"{point.median(lambda seen: seen.p99_ms):.2f}",
            f"{point.median(lambda seen: seen.good_per_s):,.0f}",
            f"{point.median(images_a_core_second):,.0f}",
            f"{100 * point.median(lambda seen: seen.accuracy):.2f}",
        ]
        print(f"| {' | '.join(cells)} |")
    print()
    for model in _MODELS:
        within = [
            point.rate for point in points if point.model == model and point.median(_p99_ms) <= objective_ms
        ]  # fmt: skip
        good = max(point.median(lambda seen: seen.good_per_s) for point in points if point.model == model)
        most = f"{max(within):,.0f}" if within else "none of the rates"
        print(f"- {model}: p99 within {objective_ms:g} ms up to {most} images/s; highest goodput {good:,.0f} images/s")


def draw(points: Sequence[Point], objective_ms: float, path: Path) -> None:
    """Draw p99 and goodput over the rate that is offered."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for model in _MODELS:
        mine = [point for point in points if point.model == model]
        rates = [point.rate for point in mine]
        left.plot(rates, [point.median(_p99_ms) for point in mine], marker="o", label=model)
        right.plot(rates, [point.median(lambda seen: seen.good_per_s) for point in mine], marker="o", label=model)
    left.axhline(objective_ms, color="grey", linestyle="--")
    left.set_yscale("log")
    left.set_ylabel("p99 latency, ms")
    right.set_ylabel(f"images a second answered within {objective_ms:g} ms")
    for axes in (left, right):
        axes.set_xlabel("images a second offered (Poisson)")
        axes.legend()
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _p99_ms(seen: Seen) -> float:
    return seen.p99_ms


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objective-ms", type=float, default=50.0, help="of an answer")
    add_one_server(parser, repeats=3)
    arguments = parser.parse_args()
    (variant,) = choose(arguments.peer, arguments.compute)
    arguments.out.mkdir(parents=True, exist_ok=True)
    work = prepare(arguments.data, arguments.work, [variant.compute])
    contender = Contender(variant, work, arguments.out / "servers")
    with all_stopped([contender]):
        points = measure(contender, arguments)
    print(f"{describe()}; {variant.peer.describe()}; {variant.compute};")
    print(f"medians of {arguments.repeats} interleaved runs of {arguments.seconds:g} s\n")
    print_table(points, arguments.objective_ms)
    draw(points, arguments.objective_ms, arguments.out / "objective.png")


if __name__ == "__main__":
    main()

"""What was seen, as pictures: throughput and p99 by server; latency over load."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.peers.loads import Kind, Load
from benchmarks.peers.tables import ECHO, OURS, Run, best_of, group, median

_OURS_COLOUR, _OTHERS_COLOUR = "#c1121f", "#669bbc"


def draw(runs: Sequence[Run], out: Path) -> None:
    """Write ``servers-<load>.png`` for each closed loop, and ``latency-<images>.png`` over the shares of the peak.

    Args:
        runs: of all loads.
        out: folder.
    """
    mpl.use("agg")
    real = [run for run in runs if run.peer != ECHO]
    for load in dict.fromkeys(run.load for run in real if not run.load.is_open):
        _draw_servers([run for run in real if run.load == load], load, out / f"servers-{load}.png")
    for size in sorted({run.load.images_per_request for run in real if run.load.kind is Kind.SHARE}):
        chosen = [run for run in real if run.load.kind is Kind.SHARE and run.load.images_per_request == size]
        _draw_latency(chosen, size, out / f"latency-{size}.png")


def _draw_servers(runs: Sequence[Run], load: Load, path: Path) -> None:
    """Bars, the fastest on top."""
    groups = sorted(group(runs).items(), key=lambda item: median(item[1], lambda seen: seen.images_per_s))
    names = [f"{peer}, {compute.replace('-', ' ')}" for (peer, compute), _ in groups]
    colours = [_OURS_COLOUR if peer in OURS else _OTHERS_COLOUR for (peer, _), _ in groups]
    figure = Figure(figsize=(11, 1.2 + 0.34 * len(groups)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    rates = [median(repeats, lambda seen: seen.images_per_s) for _, repeats in groups]
    latencies_ms = [median(repeats, lambda seen: seen.p99_ms) for _, repeats in groups]
    for axes, values, title in ((left, rates, "images a second"), (right, latencies_ms, "p99 latency, ms")):
        bars = axes.barh(names, values, color=colours)
        axes.bar_label(bars, fmt="{:,.0f}", padding=3)
        axes.set_xlabel(title)
        axes.margins(x=0.15, y=0.01)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(load.title)
    figure.savefig(path, dpi=120)


def _draw_latency(runs: Sequence[Run], size: int, path: Path) -> None:
    """Lines over the images a second that came, p99 full, p50 dotted; of each server its best engine and precision."""
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    axes: Axes = figure.subplots()
    loads = sorted({run.load for run in runs}, key=lambda load: load.level)
    top = group([run for run in runs if run.load == loads[-1]])
    for peer in dict.fromkeys(run.peer for run in runs):
        best = best_of(top, [peer], None)
        if best is None:
            continue
        mine = [[run for run in runs if run.load == load and run.variant == best[0].variant] for load in loads]
        mine = [repeats for repeats in mine if repeats]
        rates = [median(repeats, lambda seen: seen.images_per_s) for repeats in mine]
        p99_ms = [median(repeats, lambda seen: seen.p99_ms) for repeats in mine]
        p50_ms = [median(repeats, lambda seen: seen.p50_ms) for repeats in mine]
        width = 3.0 if peer in OURS else 1.2
        label = f"{peer}, {best[0].compute.replace('-', ' ')}"
        (line,) = axes.plot(rates, p99_ms, marker="o", linewidth=width, label=label)
        axes.plot(rates, p50_ms, marker=".", linestyle=":", linewidth=width, color=line.get_color())
    axes.set_yscale("log")
    axes.set_xlabel("images a second, Poisson arrivals")
    axes.set_ylabel("latency, ms: p99, and p50 dotted")
    axes.set_title(f"{size} image{'s' if size > 1 else ''} a request, at shares of each server's own peak")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    figure.savefig(path, dpi=120)

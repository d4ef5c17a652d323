"""What was seen, as tables: medians over the repeats, and ratios within each repeat."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.peers.load import Seen
from benchmarks.peers.loads import Load

OURS = ("ours", "ours-processes")
ECHO = "echo"
_LEAST_AGREEMENT = 0.98
"""Labels may differ where two engines round a near tie differently; below this, a server computes something else."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of one server.

    Attributes:
        peer: its name.
        compute: engine and precision.
        load: how it was asked.
        repeat: which round, from 0.
        seen: what came of it.
    """

    peer: str
    compute: str
    load: Load
    repeat: int
    seen: Seen

    @property
    def variant(self) -> tuple[str, str]:
        """Name server, engine and precision."""
        return self.peer, self.compute


def print_tables(runs: Sequence[Run], loads: Sequence[Load]) -> None:
    """Print a table a load, then the best of each server against the best of ours."""
    for load in loads:
        chosen = [run for run in runs if run.load == load]
        if chosen:
            print(f"### {load.title}\n")
            _print_load(chosen, load)
            print()
            _print_generator(chosen)
            _print_best(chosen)


def median(runs: Sequence[Run], value: Callable[[Seen], float]) -> float:
    """Give the median over the repeats."""
    return float(statistics.median(value(run.seen) for run in runs))


def group(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    """Gather the repeats of each server, engine and precision, in the order of the first."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault(run.variant, []).append(run)
    return groups


def best_of(groups: dict[tuple[str, str], list[Run]], peers: Sequence[str], compute: str | None) -> list[Run] | None:
    """Give the repeats of the fastest among some servers, of one engine and precision or of all."""
    candidates = [
        runs for (peer, made_by), runs in groups.items() if peer in peers and compute in (None, made_by)
    ]  # fmt: skip
    return max(candidates, key=lambda runs: median(runs, lambda seen: seen.images_per_s), default=None)


def ratio(above: Sequence[Run], below: Sequence[Run], value: Callable[[Seen], float]) -> str:
    """Give the median of the ratios within each repeat, with the smallest and the largest."""
    others = {run.repeat: value(run.seen) for run in below}
    ratios = sorted(value(run.seen) / others[run.repeat] for run in above if others.get(run.repeat))
    if not ratios:
        return "-"
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def _print_load(runs: Sequence[Run], load: Load) -> None:
    # In an open loop everybody answers what comes, sooner or later.
    compared, what = (_p50_ms, "our p50 to its") if load.is_open else (_images_per_s, "ours to it")
    titles = ["server", "engine, precision", "images/s", what, "p50 ms", "p99 ms", "server CPU ms an image"]
    titles += ["client CPU ms a request", "cores: server, client, others, stolen", "images a core-second"]
    titles += ["as expected %", "accuracy % (fp32 cascade's)", "errors, unsent"]
    print(f"| {' | '.join(titles)} |\n|{' --- |' * len(titles)}")
    groups = group(runs)
    for (peer, compute), repeats in groups.items():
        ours = best_of(groups, OURS, compute)
        is_ratio = ours is not None and peer not in (*OURS, ECHO)
        cells = [peer, compute.replace("-", " "), f"{median(repeats, _images_per_s):,.0f}"]
        cells.append(ratio(ours or [], repeats, compared) if is_ratio else "")
        print(f"| {' | '.join([*cells, *_figures(repeats)])} |")


def _images_per_s(seen: Seen) -> float:
    return seen.images_per_s


def _p50_ms(seen: Seen) -> float:
    return seen.p50_ms


def _figures(runs: Sequence[Run]) -> list[str]:
    def middle(value: Callable[[Seen], float]) -> float:
        return median(runs, value)

    agreement = middle(lambda seen: seen.agreement)
    cores = [
        middle(lambda seen: seen.server_cpu_s / seen.seconds),
        middle(lambda seen: seen.client_cpu_s / seen.seconds),
        middle(lambda seen: seen.other_cpu_s / seen.seconds),
        middle(lambda seen: seen.stolen_cpu_s / seen.seconds),
    ]
    is_wrong = runs[0].peer != ECHO and not agreement >= _LEAST_AGREEMENT
    return [
        f"{middle(lambda seen: seen.p50_ms):.2f}",
        f"{middle(lambda seen: seen.p99_ms):.2f}",
        f"{middle(_server_ms):.2f}",
        f"{middle(lambda seen: 1e3 * seen.client_cpu_s / max(1, seen.requests)):.2f}",
        ", ".join(f"{each:.2f}" for each in cores),
        f"{middle(images_a_core_second):,.0f}",
        f"{100 * agreement:.2f}{' **wrong**' if is_wrong else ''}",
        f"{100 * middle(lambda seen: seen.accuracy):.2f} ({100 * middle(lambda seen: seen.reference_accuracy):.2f})",
        f"{sum(sum(run.seen.errors.values()) for run in runs)}, {sum(run.seen.unsent for run in runs)}",
    ]


def images_a_core_second(seen: Seen) -> float:
    """Give what a second of one core yields in the server, the client's share left out."""
    return seen.images_per_s * seen.seconds / seen.server_cpu_s if seen.server_cpu_s else math.nan


def _server_ms(seen: Seen) -> float:
    return 1e3 * seen.server_cpu_s / max(1.0, seen.images_per_s * seen.seconds)


def _print_generator(runs: Sequence[Run]) -> None:
    """Say what the load generator could send, were it alone on a core, by what a request to the echo costs it."""
    echoes = [run for run in runs if run.peer == ECHO]
    if echoes:
        cost_s = median(echoes, lambda seen: seen.client_cpu_s / max(1, seen.requests))
        print(
            f"The load generator takes {1e3 * cost_s:.2f} ms a request: at most {1 / cost_s:,.0f} a second and core.\n"
        )


def _print_best(runs: Sequence[Run]) -> None:
    """Compare the best of each server, whatever engine and precision, with the best of ours."""
    groups = group(runs)
    ours = best_of(groups, OURS, None)
    others = [peer for peer in dict.fromkeys(run.peer for run in runs) if peer not in (*OURS, ECHO)]
    if ours is None or not others:
        return
    print("Best against best:\n\n| server | its best | ours | images/s | p99 |\n| --- | --- | --- | --- | --- |")
    for peer in others:
        theirs = best_of(groups, [peer], None)
        assert theirs is not None
        cells = [peer, theirs[0].compute, f"{ours[0].peer} {ours[0].compute}"]
        cells.append(ratio(ours, theirs, lambda seen: seen.images_per_s))
        cells.append(ratio(ours, theirs, lambda seen: seen.p99_ms))
        print(f"| {' | '.join(cells)} |")
    print()

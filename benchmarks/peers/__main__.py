"""Compare servers at the same work: each peer in turn, the same members, images and load generator.

    python -m benchmarks.peers.setup
    python -m benchmarks.peers --data DATA [--only ours,plain] [--computes onnxruntime-fp32,...] [--seconds 4]
        [--repeats 3] [--loads c32x1,o80x1] [--quick]

All servers are started once and then stand still (SIGSTOP) except in their turns; for each load, each repeat goes round
all of them, so that a change of the machine's speed meets all alike. Prints tables in Markdown; writes runs.jsonl as
they come, and pictures.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import assert_never

from benchmarks.environment import describe
from benchmarks.peers.catalogue import PEERS, all_computes, choose
from benchmarks.peers.load import Seen
from benchmarks.peers.loads import ALL, FORMS, QUICK, Kind, Load, is_peak_of, parse_loads
from benchmarks.peers.plots import draw
from benchmarks.peers.running import Contender, PeerFailure, Variant, all_stopped, generate
from benchmarks.peers.tables import Run, print_tables
from benchmarks.peers.work import Work, prepare


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure.

    Attributes:
        seconds: length of a run.
        warm_up_s: before it.
        repeats: rounds.
        out: folder of what is written.
    """

    seconds: float
    warm_up_s: float
    repeats: int
    out: Path


class Comparison:
    """Goes round contenders and keeps what was seen."""

    def __init__(self, contenders: Sequence[Contender], settings: Settings) -> None:
        self.runs: list[Run] = []
        self._contenders = contenders
        self._settings = settings
        self._record = settings.out / "runs.jsonl"
        self._record.unlink(missing_ok=True)

    def measure(self, load: Load) -> None:
        """Take one load on all contenders that have not failed."""
        for repeat in range(self._settings.repeats):
            for contender in self._contenders:
                if contender.failure is None:
                    self._try(contender, load, repeat)

    def _try(self, contender: Contender, load: Load, repeat: int) -> None:
        """A peer that fails leaves the comparison, and stops no other."""
        try:
            seen = self._run(contender, load, repeat)
        except (PeerFailure, OSError) as failure:
            contender.failure = str(failure)
            contender.stop()
            print(f"{contender.variant.name} failed: {failure}\n", file=sys.stderr, flush=True)
            return
        variant = contender.variant
        run = Run(peer=variant.peer.name, compute=str(variant.compute), load=load, repeat=repeat, seen=seen)
        self.runs.append(run)
        entry = {"peer": run.peer, "compute": run.compute, "load": str(load), "repeat": repeat, **asdict(seen)}
        with self._record.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        print(f"{load} {variant.name}: {seen.images_per_s:,.0f} images/s", file=sys.stderr, flush=True)

    def _run(self, contender: Contender, load: Load, repeat: int) -> Seen:
        with contender.turn() as server:
            job = contender.job(server, images_per_request=load.images_per_request)
            job = replace(job, seconds=self._settings.seconds, warm_up_s=self._settings.warm_up_s)
            match load.kind:
                case Kind.CLOSED:
                    return generate(replace(job, concurrency=load.level))
                case Kind.SHARE:
                    images_per_s = load.level / 100 * self._peak(contender.variant, load)
                case Kind.RATE:
                    images_per_s = float(load.level)
                case _:
                    assert_never(load.kind)
            return generate(replace(job, rate=images_per_s / load.images_per_request, seed=repeat))

    def _peak(self, variant: Variant, load: Load) -> float:
        """Give the images a second of the closed loop that had most, by medians."""
        rates: dict[Load, list[float]] = {}
        for run in self.runs:
            if (run.peer, run.compute) == (variant.peer.name, str(variant.compute)) and is_peak_of(run.load, load):
                rates.setdefault(run.load, []).append(run.seen.images_per_s)
        return max(statistics.median(each) for each in rates.values())


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="cifar10-jpeg-*.tar.gz and cifar10-resnet/")
    parser.add_argument("--only", help=f"peers: some of {', '.join(PEERS)}")
    parser.add_argument("--computes", help="engines and precisions, such as onnxruntime-fp32,openvino-int8")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a run")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds before it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loads", default=ALL, help=FORMS)
    parser.add_argument("--quick", action="store_true", help=f"one short run each of {QUICK}")
    parser.add_argument("--work", type=Path, default=Path("bench_out/peers/work"), help="members, bundles and images")
    parser.add_argument("--out", type=Path, default=Path("bench_out/peers"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.loads, arguments.repeats, arguments.seconds = QUICK, 1, min(arguments.seconds, 2.0)
    return arguments


def print_heading(variants: Sequence[Variant], settings: Settings, work: Work) -> None:
    """Say what was measured, and how each peer was set up."""
    print(f"{describe()}; members and images as in {work.folder.name};")
    print(f"medians of {settings.repeats} interleaved runs of {settings.seconds:g} s\n")
    for peer in dict.fromkeys(variant.peer for variant in variants):
        print(f"- *{peer.name}*: {peer.describe()}; asked by {peer.wire}")
    print()


def main() -> None:
    """Compare."""
    arguments = parse_arguments()
    try:
        loads, variants = parse_loads(arguments.loads), choose(arguments.only, arguments.computes)
    except ValueError as error:
        sys.exit(str(error))
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    settings = Settings(seconds=arguments.seconds, warm_up_s=arguments.warm_up, repeats=arguments.repeats, out=out)
    work = prepare(arguments.data, arguments.work, all_computes(variants))
    contenders = [Contender(variant, work, out / "servers") for variant in variants]
    comparison = Comparison(contenders, settings)
    with all_stopped(contenders):
        for load in loads:
            comparison.measure(load)
    print_heading(variants, settings, work)
    print_tables(comparison.runs, loads)
    for contender in contenders:
        if contender.failure is not None:
            print(f"**{contender.variant.name} failed**: {contender.failure.splitlines()[0]}\n")
    draw(comparison.runs, out)


if __name__ == "__main__":
    main()

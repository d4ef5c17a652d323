"""Where a request's processor time goes: a server's threads under a closed loop, by what they do.

    python -m benchmarks.threads REPOSITORY IMAGES [--processes 2] [--concurrency 32] [--images-per-request 1]
        [--repeats 5] [--seconds 4]

The threads that compute and those that answer calls name themselves to the system; those without a name of ours are
gRPC's: its poller among them bears the interpreter's. Linux counts the time on a processor, the time ready and
waiting for one, and how often a thread came onto one.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.environment import describe
from benchmarks.server import COMMAND, RunningServer, family_of, serve

_SETTLE_S = 1.0
_KINDS = {
    "worker": "workers: members, gates, delivery",
    "rpc": "the loop: decode, admit, reply, gRPC's part",
}
_PYTHON = "main threads, gRPC's poller"
_OTHER = "gRPC's core"


class Use(NamedTuple):
    """What threads have had of the processors.

    Attributes:
        cpu_s: seconds on one.
        waiting_s: seconds ready, and waiting for one.
        turns: how often they came onto one.
    """

    cpu_s: float = 0.0
    waiting_s: float = 0.0
    turns: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: images a second, and each kind of thread's use for an image."""

    images_per_s: float
    uses: Mapping[str, Use]


def kind_of(comm: str) -> str:
    """Tell what a thread does from its name."""
    if comm.startswith("python"):
        return _PYTHON
    return _KINDS.get(comm, _OTHER)


def read_uses(pids: list[int]) -> dict[tuple[int, str], tuple[str, Use]]:
    """Read what each thread of some processes has had so far: (process, thread) → its kind and use."""
    uses = {}
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            comm = (task / "comm").read_text().strip()
            cpu_ns, waiting_ns, turns = map(int, (task / "schedstat").read_text().split())
            uses[pid, task.name] = (kind_of(comm), Use(cpu_ns / 1e9, waiting_ns / 1e9, turns))
    return uses


def measure(server: RunningServer, arguments: argparse.Namespace) -> Run:
    """Load the server, and read its threads' use over the middle of the run."""
    with _load(server, arguments) as load:
        time.sleep(2 * _SETTLE_S)
        before, started_s = read_uses(family_of(server.pid)), time.perf_counter()
        time.sleep(arguments.seconds)
        after, seconds = read_uses(family_of(server.pid)), time.perf_counter() - started_s
        report = json.loads(load.communicate()[0])
    images = report["images_per_s"] * seconds
    sums: dict[str, Counter[str]] = {}
    for thread, (kind, use) in after.items():
        old = before.get(thread, (kind, Use()))[1]
        sums.setdefault(kind, Counter()).update({name: getattr(use, name) - getattr(old, name) for name in Use._fields})
    uses = {kind: Use(**{name: total[name] / images for name in Use._fields}) for kind, total in sums.items()}
    return Run(images_per_s=report["images_per_s"], uses=uses)


@contextmanager
def _load(server: RunningServer, arguments: argparse.Namespace) -> Iterator["subprocess.Popen[str]"]:
    command = [*COMMAND, "bench", "--url", server.address, "--model", arguments.model, "--json", "-"]
    command += ["--data", str(arguments.images), "--concurrency", str(arguments.concurrency)]
    command += ["--images-per-request", str(arguments.images_per_request)]
    command += ["--warm-up", "0", "--seconds", str(arguments.seconds + 4 * _SETTLE_S)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        yield load


def table(runs: list[Run]) -> str:
    """Write the medians over runs as a table in Markdown, the busiest kind of thread first."""
    kinds = {kind for run in runs for kind in run.uses}

    def middle(kind: str, name: str) -> float:
        return float(median(getattr(run.uses.get(kind, Use()), name) for run in runs))

    lines = [
        "| threads | CPU ms an image | waiting for a core, ms | times on a core |",
        "| --- | --- | --- | --- |",
    ]
    for kind in sorted(kinds, key=lambda each: -middle(each, "cpu_s")):
        cells = (
            f"{1e3 * middle(kind, 'cpu_s'):.2f}",
            f"{1e3 * middle(kind, 'waiting_s'):.2f}",
            f"{middle(kind, 'turns'):.1f}",
        )
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("images", type=Path, help="image folder, <class>/<file>")
    parser.add_argument("--model", default="cascade")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--images-per-request", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    if sys.platform != "linux":
        raise SystemExit("only Linux tells what each thread has had of the processors")
    with serve(arguments.repository, processes=arguments.processes) as server:
        runs = [measure(server, arguments) for _ in range(arguments.repeats)]
    rates = sorted(run.images_per_s for run in runs)
    print(f"{describe()}; {arguments.processes} processes, {arguments.concurrency} callers,")
    print(f"images a request: {arguments.images_per_request}; medians of {len(runs)} runs of {arguments.seconds:g} s;")
    print(f"{median(rates):,.0f} images/s ({rates[0]:,.0f} to {rates[-1]:,.0f})\n")
    print(table(runs))


if __name__ == "__main__":
    main()

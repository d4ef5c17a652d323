"""Start-up of the server, and its memory over minutes at peak.

    python -m benchmarks.steady REPOSITORY IMAGES [--model NAME] [--minutes 5] [--starts 5] [--concurrency 32]
        [--processes 1]

A start lasts from the command until the server says that it serves, with every member warm. Memory is the resident set
of the server and its children, read once a second; the slope is a line's through the second half of the run.
"""

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.environment import describe
from benchmarks.server import COMMAND, family_of, serve

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Memory at a moment.

    Attributes:
        time_s: since the load began.
        mib: resident.
    """

    time_s: float
    mib: float


def start_up_s(repository: Path, processes: int) -> float:
    """Give the seconds until a server is ready."""
    start_s = time.perf_counter()
    with serve(repository, processes=processes):
        return time.perf_counter() - start_s


def resident_mib(pid: int) -> float:
    """Give the resident memory of a process and its children (Linux); shared pages count in each."""
    statuses = [Path(f"/proc/{each}/status").read_text() for each in family_of(pid)]
    lines = [line for status in statuses for line in status.splitlines() if line.startswith("VmRSS:")]
    return sum(int(line.split()[1]) for line in lines) * 1024 / _MIB


def watch(pid: int, load: "subprocess.Popen[str]") -> list[Reading]:
    """Read a server's memory once a second for as long as a load runs."""
    start_s = time.perf_counter()
    readings = []
    while load.poll() is None:
        readings.append(Reading(time_s=time.perf_counter() - start_s, mib=resident_mib(pid)))
        time.sleep(1)
    return readings


def slope_mib_per_minute(readings: Sequence[Reading]) -> float:
    """Fit a line through the second half of the readings."""
    later = readings[len(readings) // 2 :]
    return 60 * float(np.polyfit([each.time_s for each in later], [each.mib for each in later], 1)[0])


def print_memory(readings: Sequence[Reading]) -> None:
    """Print the memory at some moments, and its slope."""
    moments = [0, *(round(len(readings) * share) for share in (0.1, 0.25, 0.5, 0.75)), len(readings) - 1]
    print("| seconds under load | " + " | ".join(f"{readings[moment].time_s:.0f}" for moment in moments) + " |")
    print("| --- |" + " --- |" * len(moments))
    print("| resident MiB | " + " | ".join(f"{readings[moment].mib:.1f}" for moment in moments) + " |")
    print(f"\nSlope over the second half: {slope_mib_per_minute(readings):+.2f} MiB a minute.")


def main() -> None:
    """Measure and print in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("images", type=Path, help="image folder, <class>/<file>")
    parser.add_argument("--model", help="cascade to ask (default: the repository's only one)")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--processes", type=int, default=1, help="of the server")
    arguments = parser.parse_args()
    print(f"{describe()}; {arguments.processes} server process{'es' * (arguments.processes > 1)}\n")
    starts_s = [start_up_s(arguments.repository, arguments.processes) for _ in range(arguments.starts)]
    median_s = statistics.median(starts_s)
    print(
        f"Start-up: {median_s:.2f} s ({min(starts_s):.2f} to {max(starts_s):.2f}), n = {len(starts_s)}.\n", flush=True
    )
    model = arguments.model or next(folder.name for folder in sorted(arguments.repository.iterdir()))
    command = [*COMMAND, "bench", "--model", model, "--data", str(arguments.images), "--json", "-"]
    command += ["--seconds", str(60 * arguments.minutes), "--concurrency", str(arguments.concurrency)]
    with (
        serve(arguments.repository, processes=arguments.processes) as server,
        subprocess.Popen([*command, "--url", server.address], stdout=subprocess.PIPE, text=True) as load,
    ):
        readings = watch(server.pid, load)
        assert load.stdout is not None
        report = json.load(load.stdout)
    print(f"{report['images_per_s']:,.0f} images/s at concurrency {arguments.concurrency}.\n")
    print_memory(readings)


if __name__ == "__main__":
    main()

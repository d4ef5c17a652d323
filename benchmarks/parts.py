"""Where a request's processor time goes inside the server: the engine's and the protocol's parts, each with its own.

    python -m benchmarks.parts REPOSITORY IMAGES [--concurrency 1] [--images-per-request 1] [--workers 2]
        [--seconds 6] [--repeats 3]

A server in this process, with a timer around each part, under a closed loop from a process of its own. A part's time is
its thread's, on the processor, without the parts inside it. Timers cost some microseconds a call, which the parts
around bear: look at how parts compare, and at the sum of all but the members.
"""

import argparse
import functools
import inspect
import json
import subprocess
import threading
import time
import types
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.environment import describe
from benchmarks.own_process import serve_here
from benchmarks.server import COMMAND
from cascade_serve.engine import batch_run, committee, scheduler, sessions
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.rpc import desk, servicer
from cascade_serve.serving import ServingProcess

REQUEST = "handler: all else"
"""Of a request's coroutine, which is charged for its own steps on the loop."""
PARTS: tuple[tuple[object, str, str], ...] = (
    (servicer.InferenceServicer, "_infer", REQUEST),
    (desk.Visit, "__exit__", "counting the call"),
    (servicer, "decode_request", "decoding"),
    (servicer, "encode_reply", "encoding"),
    (committee.CommitteeEngine, "admit", "admission"),
    (committee.CommitteeEngine, "answer", "engine: all else"),
    (committee.CommitteeEngine, "_run", "engine: all else"),
    (committee.CommitteeEngine, "_reply", "reply"),
    (committee.CommitteeEngine, "_take", "forming batches"),
    (committee.CommitteeEngine, "_deliver", "delivery"),
    (committee, "gate", "gate"),
    (batch_run, "score_logits", "scores"),
    (sessions.SessionRunner, "run", "members"),
    (scheduler.Scheduler, "note", "noting scores"),
    (scheduler.Scheduler, "settle", "settling"),
)
"""Where a part is looked up when it is called, by which name, and what the table calls it."""


@dataclass
class Timers:
    """What the parts have taken, all threads together: part → calls, and seconds of its own, by a thread's clock."""

    clock: Callable[[], float] = time.thread_time
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    own_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _inside: threading.local = field(default_factory=threading.local)

    def around(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """Give the function with a timer around it; of a coroutine's, around each of its steps."""

        @functools.wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            with self._charging(part, calls=1):
                return function(*arguments, **options)

        @functools.wraps(function)
        @types.coroutine
        def timed_steps(*arguments: Any, **options: Any) -> Generator[Any, Any, Any]:
            steps, calls, heard = function(*arguments, **options), 1, None
            while True:
                with self._charging(part, calls=calls):
                    try:
                        waits_for = steps.send(heard)
                    except StopIteration as end:
                        return end.value
                calls = 0
                heard = yield waits_for

        return timed_steps if inspect.iscoroutinefunction(function) else timed

    @contextmanager
    def _charging(self, part: str, calls: int) -> Iterator[None]:
        outer: list[float] | None = getattr(self._inside, "children", None)
        mine = self._inside.children = [0.0]
        started_s = self.clock()
        try:
            yield
        finally:
            taken_s = self.clock() - started_s
            self._inside.children = outer
            if outer is not None:
                outer[0] += taken_s
            with self._lock:
                self.calls[part] += calls
                self.own_s[part] += taken_s - mine[0]

    def clear(self) -> None:
        """Begin anew."""
        with self._lock:
            self.calls.clear()
            self.own_s.clear()


def put_timers(timers: Timers) -> None:
    """Put a timer around each part, for as long as this process lives."""
    for place, name, part in PARTS:
        setattr(place, name, timers.around(getattr(place, name), part))


def measure(timers: Timers, server: ServingProcess, arguments: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Load the server once: part → calls and own processor milliseconds, a request."""
    timers.clear()
    command = [*COMMAND, "bench", "--url", f"127.0.0.1:{server.server.port}", "--model", arguments.model]
    command += ["--data", str(arguments.images), "--concurrency", str(arguments.concurrency)]
    command += ["--images-per-request", str(arguments.images_per_request)]
    command += ["--warm-up", "0", "--seconds", str(arguments.seconds), "--json", "-"]
    json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    requests = timers.calls[REQUEST]
    return {part: (timers.calls[part] / requests, 1e3 * timers.own_s[part] / requests) for part in timers.own_s}


def table(runs: Sequence[dict[str, tuple[float, float]]]) -> str:
    """Write medians over runs as a table in Markdown, the dearest part first, and their sum without the members."""
    parts = {part for run in runs for part in run}
    middle = {
        part: tuple(median(run.get(part, (0.0, 0.0))[column] for run in runs) for column in (0, 1)) for part in parts
    }
    lines = ["| part | calls a request | CPU ms a request |", "| --- | --- | --- |"]
    lines += [
        f"| {part} | {middle[part][0]:.2f} | {middle[part][1]:.3f} |"
        for part in sorted(parts, key=lambda part: -middle[part][1])
    ]
    rest = median(sum(own_ms for part, (_, own_ms) in run.items() if part != "members") for run in runs)
    return "\n".join([*lines, f"| **all but members** | | {rest:.3f} |"])


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("images", type=Path, help="image folder, <class>/<file>")
    parser.add_argument("--model", default="cascade")
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--images-per-request", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    timers = Timers()
    put_timers(timers)
    with serve_here(arguments.repository, EngineConfig(workers=arguments.workers)) as server:
        runs = [measure(timers, server, arguments) for _ in range(arguments.repeats)]
    print(f"{describe()}; {arguments.workers} workers, {arguments.concurrency} callers,")
    print(f"images a request: {arguments.images_per_request}; medians of {len(runs)} runs of {arguments.seconds:g} s\n")
    print(table(runs))


if __name__ == "__main__":
    main()

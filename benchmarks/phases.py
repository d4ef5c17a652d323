"""How a request's latency divides: waiting for a batch, in one, waking, and the way there and back; typical and slow.

    python -m benchmarks.phases REPOSITORY IMAGES [--concurrency 32 | --rate 250] [--workers 2] [--seconds 4]
        [--repeats 3]

A server in this process notes when each request passes which point, under a load from a process of its own whose
requests carry an id; all clocks are the machine's one. IMAGES is an array, uint8 [N, H, W, C]. The marks of a request
follow each other, so its phases add up to what its caller saw; *on the way* is all of gRPC, client and network.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial, wraps
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.environment import describe
from benchmarks.own_process import serve_here
from benchmarks.peers.load import Job
from cascade_serve.core.request import Reply
from cascade_serve.engine import committee
from cascade_serve.engine.committee import CommitteeEngine
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.engine.ticket import RowTicket
from cascade_serve.rpc import servicer
from cascade_serve.serving import ServingProcess

TO_HANDLER = "on the way to its handler"
DECODED = "decoded and admitted"
SETTLED = "settled"
WOKEN = "its caller hears"
ENCODED = "reply and encoding"
BACK = "on the way back"
_GROUPS = ((0.0, 1.0, "all"), (0.45, 0.55, "middle tenth"), (0.9, 1.0, "slowest tenth"), (0.99, 1.0, "slowest 1 %"))
"""Which requests, by the rank of their latency: from, to, and the name."""

POINTS: tuple[tuple[object, str], ...] = (
    (servicer.InferenceServicer, "_infer"),
    (RowTicket, "__init__"),
    (CommitteeEngine, "_run_and_gate"),
    (committee, "run_batch"),
    (CommitteeEngine, "_reply"),
    (RowTicket, "close"),
)
"""Where a request is looked at."""


@dataclass
class Life:
    """When one request of one row passed each point in the server, seconds on the monotonic clock.

    Attributes:
        begun_s: its handler began.
        batches: of each batch that it was in: start, end of the member's run, end of its gate; and its rows.
        admitted_s, closed_s, woken_s, left_s: it was queued, it had its answer, its handler went on, and ended.
    """

    begun_s: float
    admitted_s: float = 0.0
    batches: list[tuple[float, float, float, int]] = field(default_factory=list)
    closed_s: float = 0.0
    woken_s: float = 0.0
    left_s: float = 0.0

    def phases(self, due_s: float, done_s: float) -> dict[str, float]:
        """Divide the time that its caller saw; seconds, in the order of life."""
        divided = {TO_HANDLER: self.begun_s - due_s, DECODED: self.admitted_s - self.begun_s}
        last_s = self.admitted_s
        for stage, (started_s, ran_s, gated_s, _) in enumerate(self.batches, 1):
            divided[f"waits for stage {stage}"] = started_s - last_s
            divided[f"stage {stage}: member"] = ran_s - started_s
            divided[f"stage {stage}: gate"] = gated_s - ran_s
            last_s = gated_s
        divided[SETTLED] = self.closed_s - last_s
        divided[WOKEN] = self.woken_s - self.closed_s
        divided[ENCODED] = self.left_s - self.woken_s
        divided[BACK] = done_s - self.left_s
        return divided


class Witness:
    """Notes the lives of all requests, for as long as this process lives."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._here = threading.local()
        self._of_ticket: dict[RowTicket, Life] = {}
        self.lives: dict[str, Life] = {}

    def watch(self) -> None:
        """Put a note-taker at each point."""
        note_takers: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = (
            self._handled,
            self._admitted,
            self._batched,
            self._ran,
            self._woken,
            self._closed,
        )
        for (place, name), around in zip(POINTS, note_takers, strict=True):
            setattr(place, name, around(getattr(place, name)))

    def _handled(self, infer: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @wraps(infer)
        async def noted(service: object, request: Any, *others: Any) -> Any:
            # A request of one image is admitted before any other gets its turn.
            life = self._here.life = Life(self._clock())
            reply = await infer(service, request, *others)
            life.left_s = self._clock()
            self.lives[request.id] = life
            return reply

        return noted

    def _admitted(self, make: Callable[..., None]) -> Callable[..., None]:
        @wraps(make)
        def noted(ticket: RowTicket, *others: Any, **named: Any) -> None:
            make(ticket, *others, **named)
            # Before it is queued: from then on any thread may run it.
            self._of_ticket[ticket] = self._here.life
            self._here.life.admitted_s = ticket.admitted_s

        return noted

    def _batched(self, run_and_gate: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(run_and_gate)
        def noted(engine: object, runner: object, batch: Any) -> Any:
            owners = [row.owner for row in batch.rows]
            started_s = self._clock()
            judged = run_and_gate(engine, runner, batch)
            times = (started_s, self._here.ran_s, self._clock(), len(owners))
            for owner in owners:
                if owner in self._of_ticket:
                    self._of_ticket[owner].batches.append(times)
            return judged

        return noted

    def _ran(self, run_batch: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(run_batch)
        def noted(*arguments: Any) -> Any:
            outcome = run_batch(*arguments)
            self._here.ran_s = self._clock()
            return outcome

        return noted

    def _woken(self, reply: Callable[..., Reply]) -> Callable[..., Reply]:
        @wraps(reply)
        def noted(engine: object, ticket: RowTicket) -> Reply:
            self._of_ticket.pop(ticket).woken_s = self._clock()
            return reply(engine, ticket)

        return noted

    def _closed(self, close: Callable[..., None]) -> Callable[..., None]:
        @wraps(close)
        def noted(ticket: RowTicket, *others: Any) -> None:
            if ticket in self._of_ticket:
                self._of_ticket[ticket].closed_s = self._clock()
            close(ticket, *others)

        return noted


@dataclass(frozen=True)
class Seen:
    """One request: its latency as its caller saw it, in seconds; the phases of it, likewise; its batches' rows."""

    latency_s: float
    phases: Mapping[str, float]
    rows: Sequence[int]


def join(lives: Mapping[str, Life], calls: Mapping[str, tuple[float, float]]) -> list[Seen]:
    """Bring together what server and callers noted of each request."""
    return [
        Seen(done_s - due_s, lives[key].phases(due_s, done_s), [rows for *_, rows in lives[key].batches])
        for key, (due_s, done_s) in calls.items()
    ]


def table(seen: Sequence[Seen]) -> str:
    """Write the mean milliseconds of each phase as a table in Markdown, for all requests and for groups of them."""
    ordered = sorted(seen, key=lambda one: one.latency_s)
    groups = [ordered[int(low * len(ordered)) : max(1, int(high * len(ordered)))] for low, high, _ in _GROUPS]
    longest = max(ordered, key=lambda one: len(one.phases))
    lines = ["| mean ms | " + " | ".join(name for *_, name in _GROUPS) + " |", "| --- |" + " --- |" * len(groups)]
    lines += [_line(phase, groups, partial(_milliseconds, phase=phase)) for phase in longest.phases]
    lines.append(_line("**latency**", groups, lambda one: 1e3 * one.latency_s))
    lines.append(_line("rows of a batch", groups, lambda one: sum(one.rows) / len(one.rows)))
    lines.append(_line("went on, %", groups, lambda one: 100.0 * (len(one.rows) > 1)))
    lines.append("| requests | " + " | ".join(str(len(group)) for group in groups) + " |")
    return "\n".join(lines)


def _milliseconds(one: Seen, phase: str) -> float:
    return 1e3 * one.phases.get(phase, 0.0)


def _line(name: str, groups: Sequence[Sequence[Seen]], figure: Callable[[Seen], float]) -> str:
    return f"| {name} | " + " | ".join(f"{fmean(map(figure, group)):.2f}" for group in groups) + " |"


def measure(witness: Witness, server: ServingProcess, arguments: argparse.Namespace) -> list[Seen]:
    """Load the server once."""
    witness.lives.clear()
    job = Job(
        address=f"127.0.0.1:{server.server.port}",
        mark="",
        wire="",
        model=arguments.model,
        threshold=0.0,
        images=str(arguments.images),
        expected="",
        truth="",
        reference="",
        images_per_request=1,
        concurrency=arguments.concurrency,
        rate=arguments.rate,
        seconds=arguments.seconds,
        seed=arguments.seed,
    )
    command = [sys.executable, "-m", "benchmarks.stamped"]
    done = subprocess.run(command, input=json.dumps(asdict(job)), check=True, stdout=subprocess.PIPE, text=True)
    return join(witness.lives, json.loads(done.stdout))


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("images", type=Path, help="uint8 [N, H, W, C], .npy")
    parser.add_argument("--model", default="cascade")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--rate", type=float, help="requests a second, as a Poisson process, in place of callers")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max-batch-size", type=int, default=EngineConfig.max_batch_size)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    witness = Witness()
    witness.watch()
    engine = EngineConfig(workers=arguments.workers, max_batch_size=arguments.max_batch_size)
    with serve_here(arguments.repository, engine) as server:
        seen = [one for _ in range(arguments.repeats) for one in measure(witness, server, arguments)]
    load = f"{arguments.concurrency} callers" if arguments.rate is None else f"{arguments.rate:g} requests a second"
    print(f"{describe()}; {arguments.workers} workers, {load}, one image a request,")
    print(f"{arguments.repeats} runs of {arguments.seconds:g} s together\n")
    print(table(seen))


if __name__ == "__main__":
    main()

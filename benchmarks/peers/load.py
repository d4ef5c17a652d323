"""The load generator, in a process of its own: ``python -m benchmarks.peers.load`` reads a job, and writes what it saw.

One for all peers. Callers are threads over blocking calls, which cost less CPU than grpc's other ways; requests are
encoded before the run, and answers are decoded after it. All connections are used in turn, whatever the concurrency, as
a server of several processes gets its share of work by connections.
"""
# Shapes: N images, B images of a request, A answered images of a run, HWC image.

import gc
import itertools
import json
import math
import resource
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc
import numpy as np

from benchmarks.peers.processes import cpu_s, machine_busy_s, marked_pids, stolen_s
from benchmarks.peers.wire import Call, Wire, WireName, make_wire
from cascade_serve.core.arrays import ImageArray, IntArray

_OPEN_LOOP_CALLERS = 128
"""Bound on the requests in flight of an open loop; what comes due beyond it waits, and its wait is counted."""
_CALL_TIMEOUT_S = 30.0
_CONNECT_TIMEOUT_S = 20.0
_ORDER_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run.

    Attributes:
        address: host:port.
        mark: of the server's processes, whose CPU time is read.
        wire: how it is asked.
        model: asked, where the protocol names one.
        threshold: of the cascade, where the client decides.
        images: .npy file, uint8 [N, H, W, C].
        expected: .npy file, int64 [N]: the labels that the cascade gives.
        truth: .npy file, int64 [N]: the classes.
        reference: .npy file, int64 [N]: the labels of the fp32 cascade, whose accuracy is the measure.
        images_per_request: B.
        concurrency: callers, in a closed loop.
        rate: requests a second as a Poisson process; None is a closed loop.
        seconds: length of the measured part.
        warm_up_s: before it.
        connections: channels that share no TCP connection.
        seed: of the Poisson process.
        objective_s: answers later than this are not good; None counts all.
    """

    address: str
    mark: str
    wire: str
    model: str
    threshold: float
    images: str
    expected: str
    truth: str
    reference: str
    images_per_request: int
    concurrency: int = 1
    rate: float | None = None
    seconds: float = 4.0
    warm_up_s: float = 1.0
    connections: int = 16
    seed: int = 0
    objective_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one run saw.

    Attributes:
        requests: answered in the measured part.
        images_per_s: answered.
        p50_ms, p99_ms, mean_ms: latency; in an open loop from when a request was due.
        errors: calls that failed, by status.
        unsent: requests that were due, but for which no caller was free before the end.
        agreement: share of answered images whose label is the expected one.
        accuracy: share whose label is the class.
        reference_accuracy: what it would be by the reference's labels, on the same images.
        good_per_s: images a second answered within the objective.
        server_cpu_s, client_cpu_s, other_cpu_s, stolen_cpu_s: processor seconds in the measured part; others are all
            processes but the server's and this one, and stolen is what the host kept.
        seconds: length of the measured part, as it was.
    """

    requests: int
    images_per_s: float
    p50_ms: float
    p99_ms: float
    mean_ms: float
    errors: dict[str, int]
    unsent: int
    agreement: float
    accuracy: float
    reference_accuracy: float
    good_per_s: float
    server_cpu_s: float
    client_cpu_s: float
    other_cpu_s: float
    stolen_cpu_s: float
    seconds: float


@dataclass
class Tally:
    """What one caller saw: request number, when due or sent, when answered, and the answer or None."""

    index: list[int] = field(default_factory=list)
    due_s: list[float] = field(default_factory=list)
    done_s: list[float] = field(default_factory=list)
    answer: list[bytes | None] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Meter:
    """Processor seconds so far."""

    time_s: float
    server_s: float
    client_s: float
    machine_s: float
    stolen_s: float

    @classmethod
    def read(cls, pids: Sequence[int]) -> "Meter":
        """Read all clocks."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        client_s = usage.ru_utime + usage.ru_stime
        return cls(time.perf_counter(), cpu_s(pids), client_s, machine_busy_s(), stolen_s())


class Arrivals:
    """Hands out request numbers and when each is due; used by all callers, which wait for the start together."""

    def __init__(self, job: Job) -> None:
        self._length_s = job.warm_up_s + job.seconds
        self._end_s = 0.0
        self._numbers = itertools.count()  # its next() is atomic
        self._due_s: list[float] | None = None
        self._started = threading.Event()
        if job.rate is not None:
            count = round(job.rate * self._length_s * 1.5) + 100
            due_s = np.cumsum(np.random.default_rng(job.seed).exponential(1 / job.rate, count))
            self._due_s = due_s[due_s < self._length_s].tolist()

    def start(self) -> None:
        """Let the run begin now."""
        start_s = time.perf_counter()
        self._end_s = start_s + self._length_s
        if self._due_s is not None:
            self._due_s = [start_s + due_s for due_s in self._due_s]
        self._started.set()

    def __iter__(self) -> Iterator[tuple[int, float]]:
        """Give numbers and due times from the start until the run is over."""
        self._started.wait()
        while (now_s := time.perf_counter()) < self._end_s:
            number = next(self._numbers)
            if self._due_s is None:
                yield number, now_s
            elif number >= len(self._due_s):
                return
            else:
                time.sleep(max(0.0, self._due_s[number] - now_s))
                yield number, self._due_s[number]

    def count_unsent(self) -> int:
        """Count what was due and never handed out; to be asked once, in the end."""
        return 0 if self._due_s is None else max(0, len(self._due_s) - next(self._numbers))


def call_until_over(arrivals: Arrivals, calls: Sequence[Call], wire: Wire, requests: list[bytes], tally: Tally) -> None:
    """Be one caller."""
    turn = itertools.cycle(calls)
    for number, due_s in arrivals:
        index = number % len(requests)
        try:
            answer = wire.ask(next(turn), requests[index])
        except grpc.RpcError as error:
            answer = None
            code = error.code().name  # a failed blocking call is a call too
            tally.errors[code] = tally.errors.get(code, 0) + 1
        tally.done_s.append(time.perf_counter())
        tally.index.append(index)
        tally.due_s.append(due_s)
        tally.answer.append(answer)


def run(job: Job) -> Seen:
    """Do a job."""
    images_NHWC: ImageArray = np.load(job.images)
    batches = _batches(len(images_NHWC), job.images_per_request)
    wire = make_wire(WireName(job.wire), job.threshold, job.model)
    requests = [wire.encode(images_NHWC[batch]) for batch in batches]
    channels = [connect(job.address) for _ in range(job.connections)]
    calls = [call_over(channel, wire.path) for channel in channels]
    num_callers = job.concurrency if job.rate is None else _OPEN_LOOP_CALLERS
    tallies = [Tally() for _ in range(num_callers)]
    pids = marked_pids(job.mark)
    gc.collect()
    gc.disable()
    arrivals = Arrivals(job)
    callers = [
        threading.Thread(target=call_until_over, args=(arrivals, share(calls, num, num_callers), wire, requests, tally))
        for num, tally in enumerate(tallies)
    ]
    for caller in callers:
        caller.start()
    arrivals.start()
    time.sleep(job.warm_up_s)
    first = Meter.read(pids)
    time.sleep(job.seconds)
    last = Meter.read(pids)
    for caller in callers:
        caller.join()
    for channel in channels:
        channel.close()
    return _summarise(job, wire, batches, tallies, meters=(first, last), unsent=arrivals.count_unsent())


def connect(address: str) -> grpc.Channel:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    channel = grpc.insecure_channel(address, options)
    grpc.channel_ready_future(channel).result(_CONNECT_TIMEOUT_S)
    return channel


def call_over(channel: grpc.Channel, path: str) -> Call:
    method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)

    def call(request: bytes) -> bytes:
        answer: bytes = method(request, timeout=_CALL_TIMEOUT_S)
        return answer

    return call


def share(calls: list[Call], caller: int, num_callers: int) -> list[Call]:
    """Give a caller its connections: those that no other caller would use else, and at least one."""
    return [calls[position % len(calls)] for position in range(caller, max(len(calls), caller + 1), num_callers)]


def _batches(num_images: int, size: int) -> list[IntArray]:
    order = np.random.default_rng(_ORDER_SEED).permutation(num_images)
    return [order[first : first + size] for first in range(0, num_images - size + 1, size)]


def _summarise(
    job: Job, wire: Wire, batches: list[IntArray], tallies: list[Tally], *, meters: tuple[Meter, Meter], unsent: int
) -> Seen:
    first, last = meters
    due_s = np.array([due for tally in tallies for due in tally.due_s])
    done_s = np.array([done for tally in tallies for done in tally.done_s])
    answers = [answer for tally in tallies for answer in tally.answer]
    indices = [index for tally in tallies for index in tally.index]
    is_answered = np.array([answer is not None for answer in answers], dtype=bool)
    # A closed loop's rate is that of answers; an open loop's latency is that of all that were due.
    clock_s = done_s if job.rate is None else due_s
    is_inside = is_answered & (clock_s >= first.time_s) & (clock_s < last.time_s)
    latency_s = (done_s - due_s)[is_inside]
    seconds = last.time_s - first.time_s
    judged = _judge(job, wire, batches, [(indices[at], answers[at]) for at in np.flatnonzero(is_inside)])
    num_good = _count_good(latency_s, job.objective_s)
    server_s, client_s = last.server_s - first.server_s, last.client_s - first.client_s
    rank_ms = [1e3 * float(np.percentile(latency_s, rank)) if len(latency_s) else math.nan for rank in (50, 99)]
    errors: dict[str, int] = {}
    for tally in tallies:
        for code, count in tally.errors.items():
            errors[code] = errors.get(code, 0) + count
    return Seen(
        requests=int(is_inside.sum()),
        images_per_s=job.images_per_request * int(is_inside.sum()) / seconds,
        p50_ms=rank_ms[0],
        p99_ms=rank_ms[1],
        mean_ms=1e3 * float(latency_s.mean()) if len(latency_s) else math.nan,
        errors=errors,
        unsent=unsent,
        agreement=judged[0],
        accuracy=judged[1],
        reference_accuracy=judged[2],
        good_per_s=job.images_per_request * num_good / seconds,
        server_cpu_s=server_s,
        client_cpu_s=client_s,
        other_cpu_s=last.machine_s - first.machine_s - server_s - client_s,
        stolen_cpu_s=last.stolen_s - first.stolen_s,
        seconds=seconds,
    )


def _count_good(latency_s: np.ndarray, objective_s: float | None) -> int:
    return len(latency_s) if objective_s is None else int((latency_s <= objective_s).sum())


def _judge(
    job: Job, wire: Wire, batches: list[IntArray], answered: list[tuple[int, bytes | None]]
) -> tuple[float, float, float]:
    """Give agreement, accuracy and the reference's accuracy over all answers; NaN where there is none."""
    if not answered:
        return math.nan, math.nan, math.nan
    asked_A = np.concatenate([batches[index] for index, _ in answered])
    labels_A = np.concatenate([wire.labels(answer) for _, answer in answered if answer is not None])
    truth_A = np.load(job.truth)[asked_A]
    agreement = float((labels_A == np.load(job.expected)[asked_A]).mean())
    reference_accuracy = float((np.load(job.reference)[asked_A] == truth_A).mean())
    return agreement, float((labels_A == truth_A).mean()), reference_accuracy


def main() -> None:
    """Read a job from the standard input, and write what was seen to the standard output, both as JSON."""
    job = Job(**json.loads(sys.stdin.read()))
    if not Path(job.images).exists():
        sys.exit(f"images: {job.images} does not exist")
    print(json.dumps(asdict(run(job))))


if __name__ == "__main__":
    main()

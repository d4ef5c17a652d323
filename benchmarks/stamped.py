"""Callers whose requests say by their id which they are: ``python -m benchmarks.stamped`` writes when each was sent.

The callers are those of the load generator for all servers; a job comes on the standard input, and what became of each
request goes to the standard output, both as JSON: id → when it was due or sent, and when answered, on the machine's
monotonic clock, which all processes share.
"""

import itertools
import json
import sys
import threading
from dataclasses import dataclass

import numpy as np

from benchmarks.peers.load import Arrivals, Job, Tally, call_over, call_until_over, connect, share
from benchmarks.peers.wire import Call, OpenInference
from cascade_serve.rpc.stubs import grpc_service_pb2 as pb

_NUM_IMAGES = 1000
_OPEN_LOOP_CALLERS = 128


@dataclass(frozen=True)
class StampedInference(OpenInference):
    """The Open Inference Protocol with an id of its own for each request, which the answer repeats."""

    numbers = itertools.count()

    def ask(self, call: Call, request: bytes) -> bytes:
        """Make one call."""
        # A field that comes last counts, and what comes before it need not be encoded anew.
        return call(request + pb.ModelInferRequest(id=str(next(self.numbers))).SerializeToString())


def run(job: Job) -> dict[str, tuple[float, float]]:
    """Do a job: id → due and done, in seconds; without warm-up and without failed calls."""
    wire = StampedInference(job.model)
    images_NHWC = np.load(job.images)[:_NUM_IMAGES]
    requests = [wire.encode(image_HWC[np.newaxis]) for image_HWC in images_NHWC]
    channels = [connect(job.address) for _ in range(job.connections)]
    calls = [call_over(channel, wire.path) for channel in channels]
    tallies = [Tally() for _ in range(job.concurrency if job.rate is None else _OPEN_LOOP_CALLERS)]
    arrivals = Arrivals(job)
    callers = [
        threading.Thread(
            target=call_until_over, args=(arrivals, share(calls, number, len(tallies)), wire, requests, tally)
        )
        for number, tally in enumerate(tallies)
    ]
    for caller in callers:
        caller.start()
    arrivals.start()
    for caller in callers:
        caller.join()
    for channel in channels:
        channel.close()
    first_s = min((due_s for tally in tallies for due_s in tally.due_s), default=0.0) + job.warm_up_s
    return {
        pb.ModelInferResponse.FromString(answer).id: (due_s, done_s)
        for tally in tallies
        for due_s, done_s, answer in zip(tally.due_s, tally.done_s, tally.answer, strict=True)
        if answer is not None and due_s >= first_s
    }


def main() -> None:
    """Read a job, and write what became of its requests."""
    print(json.dumps(run(Job(**json.loads(sys.stdin.read())))))


if __name__ == "__main__":
    main()

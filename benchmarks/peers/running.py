"""Servers side by side: all are started, all but one stand still, and they take turns with the load generator."""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import numpy as np

from benchmarks.peers.load import Job, Seen
from benchmarks.peers.peer import HERE, Assignment, Compute, Engine, Peer, Precision, Server, num_cores
from benchmarks.peers.wire import make_wire
from benchmarks.peers.work import CASCADE, THRESHOLD, Work

_READY_S = 180.0
_PROBE_S = 2.0
_POLL_S = 0.2
_FIRST_PROBES = 16
"""Connections that a new server must answer: of several processes on a port, one may be ready long before others."""
_FP32 = Compute(engine=Engine.ONNX_RUNTIME, precision=Precision.FP32)
_GENERATOR_S = 60.0
"""On top of its run: starting, connecting, judging."""


class PeerFailure(Exception):  # noqa: N818 - it is no error of this program
    """A peer did not start, or does not answer; the message ends with its log."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A peer with an engine and a precision."""

    peer: Peer
    compute: Compute

    @property
    def name(self) -> str:
        """Name it in files and records."""
        return f"{self.peer.name}-{self.compute}"


class Contender:
    """A variant with its server, which is paused except in its turns.

    Args:
        variant: what to start.
        work: what it serves.
        folder: for its files.
    """

    def __init__(self, variant: Variant, work: Work, folder: Path) -> None:
        self.variant = variant
        self.failure: str | None = None
        self._work = work
        self._folder = folder / variant.name
        self._folder.mkdir(parents=True, exist_ok=True)
        self._server: Server | None = None

    @contextmanager
    def turn(self) -> Iterator[Server]:
        """Let the server run; it is started anew if a pause has not become it.

        Raises:
            PeerFailure: it doesn't start or answer.
        """
        if self._server is not None:
            self._server.processes.resume()
            if not self._answers_soon(self._server):
                self.stop()
        if self._server is None:
            self._server = self._start()
        try:
            yield self._server
        finally:
            self._server.processes.pause()

    def stop(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def job(self, server: Server, *, images_per_request: int = 1, model: str = CASCADE) -> Job:
        """Give the part of a job that is the same in all loads."""
        return Job(
            address=server.address,
            mark=server.processes.mark,
            wire=self.variant.peer.wire,
            model=model,
            threshold=THRESHOLD,
            images=str(self._work.images),
            expected=str(self._work.expected(self.variant.compute, model)),
            truth=str(self._work.truth),
            reference=str(self._work.expected(_FP32, model)),
            images_per_request=images_per_request,
        )

    def _start(self) -> Server:
        compute = self.variant.compute
        assignment = Assignment(
            compute=compute,
            graphs=self._work.graphs(compute),
            repository=self._work.repository(compute),
            threshold=THRESHOLD,
            image_shape=self._work.image_shape,
            workers=num_cores(),
            folder=self._folder,
        )
        server = self.variant.peer.start(assignment)
        until_s = time.monotonic() + _READY_S
        while not all(self._answers(server, _PROBE_S) for _ in range(_FIRST_PROBES)):
            if not server.processes.is_alive or time.monotonic() > until_s:
                server.stop()
                raise PeerFailure(f"{self.variant.name} did not start:\n{server.processes.log_tail()}")
            time.sleep(_POLL_S)
        return server

    def _answers_soon(self, server: Server) -> bool:
        return any(self._answers(server, _PROBE_S) for _ in range(3))

    def _answers(self, server: Server, timeout_s: float) -> bool:
        """Whether one image gets an answer that can be read."""
        wire = make_wire(self.variant.peer.wire, THRESHOLD)
        request = wire.encode(np.load(self._work.images, mmap_mode="r")[:1])
        with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(wire.path)
            try:
                answer = wire.ask(lambda message: method(message, timeout=timeout_s), request)
            except grpc.RpcError:
                return False
        return len(wire.labels(answer)) == 1


@contextmanager
def all_stopped(contenders: Sequence[Contender]) -> Iterator[None]:
    """Stop all servers on every way out, SIGTERM among them."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))
    try:
        yield
    finally:
        for contender in contenders:
            contender.stop()


def generate(job: Job) -> Seen:
    """Run the load generator in a process of its own.

    Raises:
        PeerFailure: it failed, such as when it can't connect.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.peers.load"],
            input=json.dumps(asdict(job)),
            capture_output=True,
            text=True,
            check=False,
            cwd=HERE.parents[1],
            timeout=job.warm_up_s + job.seconds + _GENERATOR_S,
        )
    except subprocess.TimeoutExpired as error:
        raise PeerFailure(f"the load generator did not end within {error.timeout:g} s") from error
    if done.returncode != 0:
        raise PeerFailure(f"the load generator failed:\n{done.stderr[-2000:]}")
    return Seen(**json.loads(done.stdout))


def add_one_server(parser: argparse.ArgumentParser, *, repeats: int) -> None:
    """Add the options of a comparison of two models on one of our servers."""
    parser.add_argument("--data", type=Path, required=True, help="cifar10-jpeg-*.tar.gz and cifar10-resnet/")
    parser.add_argument("--peer", default="ours", help="ours or ours-processes")
    parser.add_argument("--compute", default="onnxruntime-fp32", help="engine and precision")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a run")
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--work", type=Path, default=Path("bench_out/peers/work"))
    parser.add_argument("--out", type=Path, default=Path("bench_out/peers"))

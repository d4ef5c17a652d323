"""What all peers have in common: an assignment goes in, a running server comes out."""

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from benchmarks.peers.processes import Processes
from benchmarks.peers.wire import WireName

HERE = Path(__file__).parent
INSIDE = HERE / "inside"
"""What runs in the peers' own environments."""
ENVIRONMENTS = HERE.parents[1] / ".cache" / "peers"
"""One virtual environment a peer, made by ``python -m benchmarks.peers.setup``."""

_SETTINGS = "CASCADE_PEER_SETTINGS"


class Engine(StrEnum):
    """What computes the members."""

    ONNX_RUNTIME = "onnxruntime"
    OPENVINO = "openvino"


class Precision(StrEnum):
    """In which arithmetic."""

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"


@dataclass(frozen=True, kw_only=True)
class Compute:
    """An engine and a precision."""

    engine: Engine
    precision: Precision

    def __str__(self) -> str:
        return f"{self.engine}-{self.precision}"


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a peer is to serve.

    Attributes:
        compute: engine and precision of the members.
        graphs: an ONNX file a member, in the order of the stages.
        repository: the same members as bundles of ours.
        threshold: of the first stage.
        image_shape: [H, W, C].
        workers: as many as cores.
        folder: of the peer's own, for its files and its log.
    """

    compute: Compute
    graphs: tuple[Path, ...]
    repository: Path
    threshold: float
    image_shape: tuple[int, int, int]
    workers: int
    folder: Path

    def settings(self, port: int) -> dict[str, str]:
        """Give the environment that ``inside/hand_written.py`` reads."""
        settings = {
            "graphs": [str(graph.resolve()) for graph in self.graphs],
            "threshold": self.threshold,
            "engine": self.compute.engine,
            "precision": self.compute.precision,
            "workers": self.workers,
            "image_shape": self.image_shape,
            "port": port,
        }
        # One thread in the numeric libraries: workers share the cores already.
        return {_SETTINGS: json.dumps(settings), "PYTHONPATH": str(INSIDE), "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Server:
    """A peer that has been started.

    Attributes:
        address: host:port of its gRPC; not necessarily listening yet.
        processes: all of them.
    """

    address: str
    processes: Processes

    def stop(self) -> None:
        """End it."""
        self.processes.end()


class Peer(Protocol):
    """A server to compare with."""

    name: str
    wire: WireName
    computes: tuple[Compute, ...]
    """Engines and precisions that it can call."""

    def describe(self) -> str:
        """Say how it is set up, in one line."""
        ...

    def start(self, assignment: Assignment) -> Server:
        """Start it; it need not be ready yet."""
        ...


def computes(*engines: Engine) -> tuple[Compute, ...]:
    """Give what can be computed with some engines on this processor."""
    pairs = [(engine, precision) for engine in engines for precision in Precision if _is_possible(engine, precision)]
    return tuple(Compute(engine=engine, precision=precision) for engine, precision in pairs)


def launch(
    folder: Path, command: Sequence[str | Path], environment: Mapping[str, str], port: int, cwd: Path | None = None
) -> Server:
    """Start a command whose gRPC will listen on a port; its log is ``server.log`` in the folder."""
    processes = Processes(command, environment, folder / "server.log", cwd or folder)
    return Server(f"127.0.0.1:{port}", processes)


def python_of(environment: str) -> Path:
    """Find the interpreter of a peer's environment.

    Raises:
        FileNotFoundError: it has not been made.
    """
    path = ENVIRONMENTS / environment / "bin" / "python"
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: not there; make it with: {Path(sys.executable).name} -m benchmarks.peers.setup"
        )
    return path


def free_port() -> int:
    """Find a port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def num_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def as_json(value: Compute) -> dict[str, str]:
    """Give engine and precision, for a record."""
    return asdict(value)


def _is_possible(engine: Engine, precision: Precision) -> bool:
    if precision is not Precision.BF16:
        return True
    return engine is Engine.OPENVINO and _has_bf16()


def _has_bf16() -> bool:
    """Whether the processor multiplies in bf16: elsewhere OpenVINO would compute in fp32 and not say so."""
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    return "avx512_bf16" in flags.split() or "amx_bf16" in flags.split()

"""This project's server, as its own documentation starts it."""

import sys
from pathlib import Path

from benchmarks.peers.peer import HERE, Assignment, Engine, Server, computes, free_port, launch
from benchmarks.peers.wire import WireName

_BACKENDS = {Engine.ONNX_RUNTIME: "onnx", Engine.OPENVINO: "openvino"}


class Ours:
    """One process with a worker a core."""

    name = "ours"
    wire = WireName.OPEN_INFERENCE
    computes = computes(Engine.ONNX_RUNTIME, Engine.OPENVINO)

    def describe(self) -> str:
        """Say how it is set up."""
        return f"cascade-serve serve {' '.join(self._shape('CORES'))}"

    def start(self, assignment: Assignment) -> Server:
        """Start it."""
        port = free_port()
        command: list[str | Path] = [sys.executable, "-m", "cascade_serve", "serve", assignment.repository.resolve()]
        command += ["--port", str(port), "--metrics-port", "0", "--watch-interval-s", "0", "--log-level", "WARNING"]
        command += ["--engine", _BACKENDS[assignment.compute.engine], *self._shape(str(assignment.workers))]
        return launch(assignment.folder, command, {"OMP_NUM_THREADS": "1"}, port, cwd=HERE.parents[1])

    def _shape(self, cores: str) -> list[str]:
        return ["--workers", cores]


class OursInProcesses(Ours):
    """A front-end process a core, with a worker each."""

    name = "ours-processes"

    def _shape(self, cores: str) -> list[str]:
        return ["--processes", cores, "--workers", "1"]

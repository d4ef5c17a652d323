"""A plain gRPC server with eight threads that call the engine; and one that only echoes, to price the client."""

from pathlib import Path

from benchmarks.peers.peer import INSIDE, Assignment, Engine, Server, computes, free_port, launch, python_of
from benchmarks.peers.wire import WireName


class Plain:
    """What one writes without a serving framework."""

    name = "plain"
    wire = WireName.BYTES
    computes = computes(Engine.ONNX_RUNTIME, Engine.OPENVINO)
    _arguments: tuple[str, ...] = ()

    def describe(self) -> str:
        """Say how it is set up."""
        return "grpcio, sync, 8 threads; one session a member, one thread a run; pixels in, labels out, no schema"

    def start(self, assignment: Assignment) -> Server:
        """Start it."""
        port = free_port()
        command: list[str | Path] = [python_of("plain"), INSIDE / "plain_server.py", *self._arguments]
        return launch(assignment.folder, command, assignment.settings(port), port)


class Echo(Plain):
    """Answers at once: what a request costs the client, and the most that it can send."""

    name = "echo"
    computes = Plain.computes[:1]
    _arguments = ("--echo", "0")

    def describe(self) -> str:
        """Say how it is set up."""
        return "the plain server without members: the cost of gRPC and of the load generator"


class BusyEcho(Echo):
    """Echoes after keeping its core busy for :attr:`busy_s`: what gRPC costs where something is computed between."""

    name = "busy echo"
    busy_s = 0.003
    _arguments = ("--echo", str(busy_s))

    def describe(self) -> str:
        """Say how it is set up."""
        return f"the echo, after {1e3 * self.busy_s:g} ms of an empty loop"

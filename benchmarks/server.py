"""A server in a process of its own, for as long as a measurement takes."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COMMAND = [sys.executable, "-m", "cascade_serve"]


@dataclass(frozen=True, slots=True)
class RunningServer:
    """Where it listens, and its process id."""

    address: str
    pid: int


@contextmanager
def serve(repository: Path) -> Iterator[RunningServer]:
    """Serve a repository on free ports of loopback; stopped in the end."""
    command = [*COMMAND, "serve", str(repository), "--port", "0", "--metrics-port", "0", "--log-level", "WARNING"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            raise SystemExit(f"the server did not start: exit code {server.wait()}")
        try:
            # serving gRPC on HOST:PORT, metrics on ...
            yield RunningServer(line.split()[3].rstrip(","), server.pid)
        finally:
            server.terminate()

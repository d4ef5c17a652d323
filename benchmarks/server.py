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


def family_of(pid: int) -> list[int]:
    """Give a process and all that it started (Linux)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return [pid, *(each for child in children for each in family_of(child))]


@contextmanager
def serve(repository: Path, *, processes: int = 1) -> Iterator[RunningServer]:
    """Serve a repository on free ports of loopback; stopped in the end."""
    command = [*COMMAND, "serve", str(repository), "--port", "0", "--metrics-port", "0", "--log-level", "WARNING"]
    if processes > 1:
        command += ["--processes", str(processes), "--workers", "1"]
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

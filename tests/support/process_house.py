"""A server of several processes as an operator meets it: its lines, the pids of its processes, its metrics."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx_bundle import IMAGE_SHAPE

from cascade_serve import Client

WAIT_S = 60.0
IMAGE_HWC = np.full(IMAGE_SHAPE, 9, dtype=np.uint8)
_READY = re.compile(r"serving gRPC on (\S+:\d+), metrics on (http://\S+)\n")
_ANSWERS = re.compile(r"front-end process (\d+) \(pid (\d+)\) answers")


class ServedHouse:
    """A running ``cascade-serve serve``, whose log is read as it comes.

    Args:
        arguments: of the command.
    """

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "cascade_serve", "serve", *map(str, arguments)]
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--metrics-port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.address = ""
        self._metrics_url = ""
        self._clients: list[Client] = []

    def _read(self) -> None:
        assert self.process.stderr is not None
        self._lines.extend(self.process.stderr)

    @property
    def log(self) -> str:
        """All that was logged so far."""
        return "".join(self._lines)

    def wait_until_ready(self) -> None:
        """Read the line that tells the ports."""
        assert self.process.stdout is not None
        match = _READY.fullmatch(self.process.stdout.readline())
        assert match is not None, self.log
        self.address, self._metrics_url = match.groups()

    def clients(self, number: int) -> list[Client]:
        """Connect so often."""
        made = [Client(self.address, timeout_s=WAIT_S) for _ in range(number)]
        self._clients += made
        return made

    def pid(self, slot: int) -> int:
        """Give the process that answers in a slot."""
        wait_for(lambda: str(slot) in dict(_ANSWERS.findall(self.log)))
        return int(dict(_ANSWERS.findall(self.log))[str(slot)])

    def pids(self) -> list[int]:
        """Give all processes that have answered so far."""
        return [int(pid) for _, pid in _ANSWERS.findall(self.log)]

    def metrics(self) -> dict[str, float]:
        """Scrape: line without its value → value."""
        with urllib.request.urlopen(self._metrics_url, timeout=WAIT_S) as response:
            lines = response.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def metric(self, name: str) -> float:
        """Scrape, and sum one metric over its labels."""
        return sum(value for line, value in self.metrics().items() if line.partition("{")[0] == name)

    def end(self) -> str:
        """Wait for the end; give the standard output that was not read yet."""
        assert self.process.stdout is not None
        self.process.wait(WAIT_S)
        # They have the same outputs, which don't end before them.
        wait_for(lambda: not any(is_running(pid) for pid in self.pids()))
        self._reader.join(WAIT_S)
        return self.process.stdout.read()

    def close(self) -> None:
        """End what is left of it."""
        for client in self._clients:
            client.close()
        self.process.kill()
        for pid in filter(is_running, self.pids()):
            os.kill(pid, signal.SIGKILL)
        self.process.communicate()


def wait_for(condition: Callable[[], bool]) -> None:
    """Poll until something holds; fail if it does not within :data:`WAIT_S`."""
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Tell whether a front-end process is there; a zombie that nobody has waited for has no command any more."""
    try:
        return b"front-end process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def num_sockets(pid: int) -> int:
    """Count the sockets that a process has open."""
    return sum(str(link.readlink()).startswith("socket:") for link in Path(f"/proc/{pid}/fd").iterdir())

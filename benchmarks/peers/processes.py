"""A server's processes: started together, found again by a mark in their environment, paused, timed and ended."""

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

MARK = "CASCADE_PEER_MARK"
"""Environment variable that all processes of one server inherit, daemons among them."""

_END_S = 10.0
"""The command has so long to end by itself."""
_LEFT_S = 1.0
"""What it leaves has so long."""
_POLL_S = 0.05
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Processes:
    """A command and all that it starts.

    Args:
        command: what to run.
        environment: in addition to this process's own.
        log: file that takes what they print.
        folder: where they run.
    """

    def __init__(self, command: Sequence[str | Path], environment: Mapping[str, str], log: Path, folder: Path) -> None:
        self.mark = secrets.token_hex(8)
        self._log = log
        with log.open("wb") as output:
            self._root = subprocess.Popen(
                [str(part) for part in command],
                env={**os.environ, **environment, MARK: self.mark},
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                start_new_session=True,
            )

    @property
    def is_alive(self) -> bool:
        """Whether the command itself still runs."""
        return self._root.poll() is None

    def log_tail(self, lines: int = 30) -> str:
        """Give the end of what they printed."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def pause(self) -> None:
        """Stop all of them where they are: they take no CPU until :meth:`resume`."""
        _send(self.mark, signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        _send(self.mark, signal.SIGCONT)

    def end(self) -> None:
        """Ask the command to end, and kill what is left after some seconds."""
        self.resume()
        self._root.terminate()
        _wait_while(lambda: self.is_alive, _END_S)
        _wait_while(lambda: bool(marked_pids(self.mark)), _LEFT_S)
        while marked_pids(self.mark):
            _send(self.mark, signal.SIGKILL)
            time.sleep(_POLL_S)
        self._root.wait()


def marked_pids(mark: str) -> list[int]:
    """Find the processes that carry a mark; zombies, which have no environment left, are not among them."""
    entry = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                environment = (folder / "environ").read_bytes()
            except OSError:  # it has just ended, or is another user's
                continue
            if entry in environment.split(b"\0"):
                found.append(int(folder.name))
    return found


def cpu_s(pids: Sequence[int]) -> float:
    """Give the processor seconds that processes have used so far, those that have ended left out."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_PER_S


def machine_busy_s() -> float:
    """Give the processor seconds that the whole machine has used so far, all cores together."""
    user, nice, system, _idle, _wait, irq, soft_irq, *_ = _machine_ticks()
    return (user + nice + system + irq + soft_irq) / _TICKS_PER_S


def stolen_s() -> float:
    """Give the processor seconds that the host has kept from this machine so far."""
    return _machine_ticks()[7] / _TICKS_PER_S


def _machine_ticks() -> list[int]:
    return [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]


def _wait_while(condition: Callable[[], bool], seconds: float) -> None:
    until_s = time.monotonic() + seconds
    while condition() and time.monotonic() < until_s:
        time.sleep(_POLL_S)


def _send(mark: str, number: signal.Signals) -> None:
    for pid in marked_pids(mark):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue

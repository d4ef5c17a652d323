"""A server's processes: started together, found again by a mark in their environment, paused, timed and ended."""

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
        _send(marked_pids(self.mark), signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        _send(marked_pids(self.mark), signal.SIGCONT)

    def end(self) -> None:
        """Ask the command to end, and kill what is left after some seconds."""
        self.resume()
        # Those that have lost the mark can't be found any more once their parents are gone.
        births = {pid: _birth(pid) for pid in marked_pids(self.mark)}
        self._root.terminate()
        _wait_while(lambda: self.is_alive, _END_S)
        _wait_while(lambda: bool(_living(births)), _LEFT_S)
        while left := {*_living(births), *marked_pids(self.mark)}:
            _send(left, signal.SIGKILL)
            time.sleep(_POLL_S)
        self._root.wait()


def marked_pids(mark: str) -> list[int]:
    """Find the processes that carry a mark, and their descendants; zombies are not among them.

    A process that sets its title may overwrite its environment, as some of Ray's do, so the mark alone is not enough.
    """
    entry = f"{MARK}={mark}".encode()
    found: set[int] = set()
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                environment = (folder / "environ").read_bytes()
                state, parent = _stat(folder)[:2]
            except OSError:  # it has just ended, or is another user's
                continue
            if state != "Z":
                children.setdefault(int(parent), []).append(int(folder.name))
                if entry in environment.split(b"\0"):
                    found.add(int(folder.name))
    waiting = list(found)
    while waiting:
        new = [pid for pid in children.get(waiting.pop(), []) if pid not in found]
        found.update(new)
        waiting += new
    return sorted(found)


def cpu_s(pids: Sequence[int]) -> float:
    """Give the processor seconds that processes have used so far, those that have ended left out."""
    ticks = 0
    for pid in pids:
        try:
            fields = _stat(Path(f"/proc/{pid}"))
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_PER_S


def _stat(folder: Path) -> list[str]:
    """Read what follows the name in a process's ``stat``: its state, its parent, and so on."""
    return (folder / "stat").read_text().rpartition(")")[2].split()


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


def _send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _birth(pid: int) -> str | None:
    """Give what tells a process from a later one of the same number; None if it has ended."""
    try:
        fields = _stat(Path(f"/proc/{pid}"))
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _living(births: Mapping[int, str | None]) -> list[int]:
    return [pid for pid, birth in births.items() if birth is not None and _birth(pid) == birth]

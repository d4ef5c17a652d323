"""How threads appear to the operating system: by a name of their own, and behind others where they shall wait."""

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

_LONGEST_NAME = 15


def show_name(name: str) -> None:
    """Name this thread to the system, as ``top -H`` and profilers show it; Python 3.14 does so itself.

    Args:
        name: cut to fifteen bytes, the most that Linux keeps; elsewhere nothing is done.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_bytes(name.encode()[:_LONGEST_NAME])


def stand_back(niceness: int) -> None:
    """Let the threads that speak with clients go before this one, which would else keep them waiting for slices.

    Args:
        niceness: added to the process's; 0 does nothing, and so does a system other than Linux, where a priority is the
            whole process's.
    """
    if niceness and sys.platform == "linux":
        with suppress(OSError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, os.getpid()) + niceness)

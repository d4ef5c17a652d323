"""Threads as the operating system sees them."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cascade_serve.threads import show_name, stand_back

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux names threads and ranks them one by one")


def _name() -> str:
    return Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text(encoding="utf-8").strip()


@pytest.mark.parametrize(("name", "shown"), [("rpc", "rpc"), ("a-name-too-long-for-linux", "a-name-too-long")])
def test_a_thread_shows_its_name_and_no_other_changes(name: str, shown: str) -> None:
    own = _name()
    with ThreadPoolExecutor(1, initializer=show_name, initargs=(name,)) as threads:
        assert threads.submit(_name).result() == shown
    assert _name() == own


def test_a_thread_that_stands_back_alone_is_behind() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    with ThreadPoolExecutor(1, initializer=stand_back, initargs=(3,)) as threads:
        rank = threads.submit(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())).result()
    assert rank == min(19, own + 3)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own

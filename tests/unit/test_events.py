"""The main thread's sleep."""

import subprocess
import sys
import threading
from queue import Empty, SimpleQueue

import pytest

from cascade_serve.events import next_event

_SIGNAL_IN_ANOTHER_THREAD = """
import signal, threading, time
from queue import SimpleQueue
from cascade_serve.events import next_event

events = SimpleQueue()
signal.signal(signal.SIGTERM, lambda number, frame: events.put(number))

def take_it():
    time.sleep(0.2)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    time.sleep(60)

threading.Thread(target=take_it, daemon=True).start()
print(next_event(events))
"""


def test_a_signal_that_another_thread_gets_is_heard() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SIGNAL_IN_ANOTHER_THREAD], capture_output=True, encoding="utf-8", timeout=30, check=True
    )
    assert done.stdout == "15\n"


def test_an_event_wakes_at_once_and_a_timeout_ends_the_wait() -> None:
    events: SimpleQueue[str] = SimpleQueue()
    threading.Timer(0.05, events.put, ["now"]).start()
    assert next_event(events) == "now"
    with pytest.raises(Empty):
        next_event(events, 0.6)
    events.put("there")
    assert next_event(events, -1.0) == "there"

"""What a process makes of what the parent says, without a server behind it."""

import socket
import threading
from pathlib import Path
from queue import SimpleQueue

import pytest

from cascade_serve.processes import messages
from cascade_serve.processes.channel import Channel
from cascade_serve.processes.child import Branch
from cascade_serve.processes.hub import Hub
from cascade_serve.processes.messages import Change, Memory, Settings
from cascade_serve.serving import ServeConfig

WAIT_S = 60


def test_what_was_changed_while_a_process_started_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    then = Memory(versions={}, unloaded=frozenset({"birds"}), regions=())
    ours, theirs = socket.socketpair()
    settings = Settings(slot=1, config=ServeConfig(repository=Path("repository")), log_level="INFO", memory=then)
    branch = Branch(theirs, settings, SimpleQueue())
    applied: list[Change] = []
    monkeypatch.setattr(branch, "_apply", applied.append)
    is_up, has_ended, parent_has_ended = threading.Event(), threading.Event(), threading.Event()
    handlers = {messages.SYNC: branch._sync, messages.VIEW: branch._see}
    branch._channel.start(handlers, slow=(messages.SYNC,), on_end=parent_has_ended.set)
    Hub(1).join(Channel(ours, peer="a process"), then, on_up=is_up.set, on_failure=lambda _: None, on_end=has_ended.set)
    branch._channel.tell(messages.UP)
    assert is_up.wait(WAIT_S)
    # Nothing is unloaded any more.
    assert applied == [Change(verb="load", name="birds")]
    branch._channel.close()
    assert has_ended.wait(WAIT_S)
    assert parent_has_ended.wait(WAIT_S)

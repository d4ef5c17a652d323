"""What the parent does where the system makes no more processes; the rest is seen at whole servers."""

import errno
from pathlib import Path
from queue import SimpleQueue
from typing import NoReturn

import pytest

from cascade_serve.errors import ProcessError
from cascade_serve.processes import supervisor as supervisor_module
from cascade_serve.processes.hub import Hub
from cascade_serve.processes.messages import Settings
from cascade_serve.processes.supervisor import Supervisor
from cascade_serve.serving import ServeConfig


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    def fail(_: Settings) -> NoReturn:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(supervisor_module, "spawn", fail)
    config = ServeConfig(repository=Path("repository"), processes=2)
    return Supervisor(config, Hub(2), SimpleQueue(), port=1, log_level="INFO")


def test_a_process_that_can_not_be_made_ends_the_start(supervisor: Supervisor) -> None:
    with pytest.raises(ProcessError, match=r"^front-end process 1 can't be started: .*temporarily unavailable$"):
        supervisor._start()


def test_a_process_that_can_not_be_made_anew_is_tried_again(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        supervisor._start_anew(2)
    due = [supervisor._slots[slot].due_s for slot in (1, 2)]
    assert due[0] is None
    assert due[1] is not None
    waits = [record.getMessage().rpartition(" in ")[2] for record in caplog.records]
    assert waits == ["0.25 s", "0.50 s"]
    assert "front-end process 2 can't be started" in caplog.text
    assert supervisor.num_restarts == 0

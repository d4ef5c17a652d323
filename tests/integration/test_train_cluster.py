"""Members trained side by side on a Ray cluster of this machine: the same bits, also when a worker is killed."""

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from pipeline_watch import Memory
from tiny_recipe import tiny_plain

from training.cluster import LOCAL, train_on_cluster
from training.data.digits import load_digits
from training.errors import ClusterError
from training.inputs import Normalisation
from training.lr import Constant
from training.member_job import WEIGHTS_FILE, MemberJob, train_into
from training.pipeline.order import Order
from training.pipeline.running import run_all
from training.run_dir import RunDir

pytestmark = [
    # Not by importing it here: the cluster sets ray up before it does so.
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
    # Ray leaves sockets, files and child processes to the garbage collector, and uses what its dependencies deprecate.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]


@pytest.fixture(autouse=True)
def _collect() -> Iterator[None]:
    yield
    # What ray leaves is found while the filters above are in force.
    gc.collect()


def job(epochs: int = 3, lr: float = 0.1) -> MemberJob:
    member = tiny_plain().members[0]
    loop = replace(member.loop, epochs=epochs, lr=Constant(lr=lr))
    return MemberJob(config=replace(member, loop=loop), normalisation=Normalisation(mean=(0.3,), std=(0.4,)), threads=1)


def kill_a_worker() -> None:
    """Kill the first process that trains, once it does."""
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                is_training = path.read_bytes().startswith(b"ray::_train_remotely")
            except OSError:
                continue
            if is_training:
                os.kill(int(path.parent.name), signal.SIGKILL)
                return
        time.sleep(0.02)


def test_a_job_whose_process_is_killed_is_begun_again_and_gives_the_same_bits(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    rows = load_digits().take(np.arange(200))
    jobs = [job(epochs=150), job(epochs=151)]
    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    finished = {done.place: done for done in train_on_cluster(jobs, rows, LOCAL)}
    killer.join()
    assert sorted(finished) == [0, 1]
    for place, member in enumerate(jobs):
        folder = tmp_path / str(place)
        folder.mkdir()
        facts = train_into(member, rows, folder, folder / "scratch")
        assert finished[place].facts.evaluations == facts.evaluations
        assert finished[place].files[WEIGHTS_FILE] == (folder / WEIGHTS_FILE).read_bytes()
        assert set(finished[place].files) == {WEIGHTS_FILE, "log.jsonl", "dawnbench.tsv"}


def test_what_a_job_raises_is_told_with_the_members_name() -> None:
    rows = load_digits().take(np.arange(100))
    with pytest.raises(ClusterError, match=r"member 'xs': step \d+ \(epoch \d\): (loss|weights): got nan"):
        list(train_on_cluster([job(lr=1e30)], rows, LOCAL))


def test_a_run_trains_there_what_is_not_trained_yet(tmp_path: Path) -> None:
    order = Order(recipe="tiny", config=tiny_plain(), out=tmp_path, address=LOCAL)
    run_all(replace(order, address=None, config=replace(order.config, members=order.config.members[:1])), Memory())
    memory = Memory()
    run_all(order, memory)
    assert "training 1 members on the cluster" in memory.begun
    assert RunDir(tmp_path).finished() == ("data", "evaluation", "member-s", "member-xs")
    memory = Memory()
    run_all(order, memory)
    assert memory.begun == []
    assert sum(line.endswith("(as before)") for line in memory.told) == 3

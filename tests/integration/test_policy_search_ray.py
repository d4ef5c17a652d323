"""The policy search on a local Ray cluster of two worker processes."""

import os
import random
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from fake_trials import IMAGES, FailingTrials, MortalTrials, zero_policy

from training.errors import PolicySearchError
from training.loop_config import LoopConfig
from training.policy_search.config import Backend, PolicySearchConfig, RayConfig
from training.policy_search.history import IntervalRecord
from training.policy_search.lineage import last_records, lineage
from training.policy_search.ray_backend import run_ray
from training.policy_search.ray_cluster import ray_cluster
from training.policy_search.ray_sessions import read_records

EPOCHS = 5
CONFIG = PolicySearchConfig(
    population=4,
    perturbation_interval=2,
    loop=LoopConfig(epochs=EPOCHS),
    backend=Backend.RAY,
    ray=RayConfig(num_cpus=2, object_store_bytes=80 * 1024**2, max_failures=2),
)

pytestmark = [
    # Not by importing it here: the search sets ray up before it does so.
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed"),
    pytest.mark.slow,
    # Ray leaves sockets, files and child processes to the garbage collector, and uses what its dependencies deprecate.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]


def _processes_below(parent: int) -> set[int]:
    """Find a process's children and theirs."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
    found, new = set[int](), {parent}
    while new:
        new = {pid for pid, above in parents.items() if above in new} - found
        found |= new
    return found


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _assert_complete(records: tuple[IntervalRecord, ...]) -> None:
    last = last_records(records)
    assert list(last) == [0, 1, 2, 3]
    for record in last.values():
        assert record.end_epoch == EPOCHS
        line = lineage(records, record.key)
        assert [step.start_epoch for step in line] == [0, 2, 4]
        assert sum(step.evaluations for step in line) == EPOCHS * IMAGES


@pytest.mark.timeout(600)
def test_a_search_outlives_a_killed_worker_and_leaves_nothing_behind(tmp_path: Path) -> None:
    grave = tmp_path / "grave"
    before = _processes_below(os.getpid())
    started: set[int] = set()
    told: list[IntervalRecord] = []

    def listen(record: IntervalRecord) -> None:
        told.append(record)
        started.update(_processes_below(os.getpid()) - before)

    chance = random.getstate()
    trials = MortalTrials(epochs=EPOCHS, dies_at=2, grave=grave)
    records = run_ray(CONFIG, trials, zero_policy(), folder=tmp_path, progress=listen)

    killed = int(grave.read_text())
    assert killed != os.getpid()
    assert killed in started
    assert not [pid for pid in started if _is_alive(pid)]
    assert random.getstate() == chance
    _assert_complete(records)
    assert records == tuple(told)
    # One of four is replaced after each interval but the last, by another policy than its parent's.
    by_key = {record.key: record for record in records}
    clones = [record for record in last_records(records).values() if record.cloned_from is not None]
    assert len(clones) == 1
    assert clones[0].parent is not None
    assert clones[0].policy != by_key[clones[0].parent].policy
    # A search that is done is read.
    assert run_ray(CONFIG, trials, zero_policy(), folder=tmp_path) == records


@pytest.mark.timeout(600)
def test_a_stopped_search_goes_on_from_its_checkpoints(tmp_path: Path) -> None:
    """On a cluster that runs already, which it finds and leaves as it is."""
    config = replace(CONFIG, ray=replace(CONFIG.ray, max_failures=0))
    trials = FailingTrials(epochs=EPOCHS, fails_at=2, mended=tmp_path / "mended")
    with ray_cluster(config.ray):
        import ray

        with pytest.raises(PolicySearchError, match=r"trial_0001: failed 1 times, last with .*no room.*call again"):
            run_ray(config, trials, zero_policy(), folder=tmp_path)
        before = read_records(tmp_path)
        assert {record.end_epoch for record in before} >= {2}
        trials.mended.touch()
        records = run_ray(config, trials, zero_policy(), folder=tmp_path)
        assert ray.is_initialized()
    assert records[: len(before)] == before
    _assert_complete(records)
    # The second session went on from the weights of the first, and let the worst trial go on from the best.
    went_on = [record for record in records[len(before) :] if record.start_epoch == 2]
    assert {record.trial for record in went_on} == {0, 1, 2, 3}
    assert 0 not in {record.start_epoch for record in records[len(before) :]}
    assert [record.cloned_from is not None for record in went_on].count(True) == 1

"""The policy search on a local Ray cluster of two worker processes.

Starting processes takes nearly all of the time, so one story is told once: a worker is killed, the search goes on; a
trial fails for good, the search stops; it is called again, and goes on from its checkpoints to the end.
"""

import os
import random
import select
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from fake_trials import IMAGES, TroubledTrials, zero_policy

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
    ray=RayConfig(num_cpus=2, object_store_bytes=80 * 1024**2, max_failures=1),
)

pytestmark = [
    # Not by importing it here: the search sets ray up before it does so.
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed"),
    pytest.mark.slow,
    pytest.mark.timeout(600),
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


def _outlives(pid: int, seconds: float) -> bool:
    """Tell whether a process is still there after so long; Ray's last ones end a moment after its shutdown."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        ended, _, _ = select.select([descriptor], [], [], seconds)
    finally:
        os.close(descriptor)
    return not ended


@dataclass(kw_only=True)
class _Story:
    """What happened, and what was found.

    Attributes:
        trials: one of which dies and fails.
        failure: what the first session ended with.
        before, records: of the first session; of both.
        told: what the caller heard.
        started: processes seen meanwhile.
        left: those of them that outlived it.
        is_attached: whether the cluster was as it had been, after both sessions.
        again: what a third call gave.
    """

    trials: TroubledTrials
    failure: str = ""
    before: tuple[IntervalRecord, ...] = ()
    records: tuple[IntervalRecord, ...] = ()
    told: list[IntervalRecord] = field(default_factory=list)
    started: set[int] = field(default_factory=set)
    left: list[int] = field(default_factory=list)
    is_attached: bool = False
    again: tuple[IntervalRecord, ...] = ()


@contextmanager
def _random_kept() -> Iterator[None]:
    chance = random.getstate()
    yield
    assert random.getstate() == chance


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> _Story:
    """Tell it, on a cluster that runs already, which the search finds and leaves as it is."""
    folder = tmp_path_factory.mktemp("search")
    troubled = TroubledTrials(epochs=EPOCHS, dies_at=2, fails_at=4, grave=folder / "grave", mended=folder / "mended")
    story = _Story(trials=troubled)
    others = _processes_below(os.getpid())

    def listen(record: IntervalRecord) -> None:
        story.told.append(record)
        story.started.update(_processes_below(os.getpid()) - others)

    with _random_kept():
        with ray_cluster(CONFIG.ray):
            import ray

            with pytest.raises(PolicySearchError) as failure:
                run_ray(CONFIG, troubled, zero_policy(), folder=folder, progress=listen)
            story.failure = str(failure.value)
            story.before = read_records(folder)
            troubled.mended.touch()
            # One process is enough, and how Ray is used may change on the way.
            alone = replace(CONFIG, ray=replace(CONFIG.ray, cpus_per_trial=2))
            story.records = run_ray(alone, troubled, zero_policy(), folder=folder, progress=listen)
            story.is_attached = ray.is_initialized()
        story.left = [pid for pid in story.started if _outlives(pid, 20)]
        # No cluster is started for a search that is done.
        story.again = run_ray(CONFIG, troubled, zero_policy(), folder=folder)
    return story


def test_a_search_outlives_a_killed_worker(story: _Story) -> None:
    killed = int(story.trials.grave.read_text())
    assert killed != os.getpid()
    assert killed in story.started
    # The trial that died went through its second interval all the same, and through its first but once.
    ends = [record.end_epoch for record in story.before if record.trial == 1]
    assert ends == [2, 4]


def test_a_trial_that_fails_for_good_stops_the_search_and_is_named(story: _Story) -> None:
    assert story.failure.startswith("trial_0001: failed 2 times, last with RuntimeError: no room;")
    assert story.failure.endswith("call again to go on")


def test_a_stopped_search_goes_on_from_its_checkpoints(story: _Story) -> None:
    assert story.records[: len(story.before)] == story.before
    went_on = story.records[len(story.before) :]
    assert {record.trial for record in went_on} == {0, 1, 2, 3}
    # From the weights of the first session; the worst trial went on from the best.
    assert {record.start_epoch for record in went_on} == {4}
    assert [record.cloned_from is not None for record in went_on].count(True) == 1


def test_a_search_comes_to_its_end_with_every_lineage_whole(story: _Story) -> None:
    last = last_records(story.records)
    assert list(last) == [0, 1, 2, 3]
    for record in last.values():
        assert record.end_epoch == EPOCHS
        line = lineage(story.records, record.key)
        assert [step.start_epoch for step in line] == [0, 2, 4]
        assert sum(step.evaluations for step in line) == EPOCHS * IMAGES
    assert story.records == tuple(story.told)
    assert story.again == story.records


def test_one_of_four_is_replaced_after_an_interval_by_another_policy_than_its_parents(story: _Story) -> None:
    by_key = {record.key: record for record in story.records}
    for start in (2, 4):
        begun = {record.trial: record for record in story.records if record.start_epoch == start}
        clones = [record for record in begun.values() if record.cloned_from is not None]
        assert len(clones) == 1
        assert clones[0].parent is not None
        assert clones[0].policy != by_key[clones[0].parent].policy


def test_a_search_leaves_the_cluster_as_it_was_and_the_cluster_leaves_no_process(story: _Story) -> None:
    assert story.is_attached
    assert len(story.started) > 2
    assert not story.left

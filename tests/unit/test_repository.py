"""Loading, swapping, draining and following a folder of bundles."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from onnx_bundle import write_linear_bundle
from table_committee import make_plan, make_table_bench

from cascade_serve.bundle import PLAN_FILE, Bundle
from cascade_serve.core.plan import Fingerprint
from cascade_serve.engine.onnx import Device
from cascade_serve.engine.opening import OpeningConfig, open_engine
from cascade_serve.engine.protocol import Engine
from cascade_serve.errors import BundleError, CascadeError, MemberError, NotFoundError, UnavailableError
from cascade_serve.repository import BundleRepository, ServedBundle


class Diary:
    """Notes what the repository tells."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def swapped_in(self, served: ServedBundle) -> None:
        self.lines.append(f"{served.name}/{served.version}")

    def removed(self, cascade: str) -> None:
        self.lines.append(f"-{cascade}")


class Opener:
    """Opens lookup tables in place of graphs; tells which engines were closed."""

    def __init__(self) -> None:
        self.engines: dict[tuple[str, int], Engine] = {}
        self.fails: Callable[[int, int], None] | None = None

    def __call__(self, bundle: Bundle) -> Engine:
        engine = make_table_bench(make_plan(), before_run=self.fails, max_batch_size=2).engine
        self.engines[bundle.name, bundle.version] = engine
        return engine


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def opener() -> Opener:
    return Opener()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "repository"


@pytest.fixture
def repository(root: Path, opener: Opener, diary: Diary) -> Iterator[BundleRepository]:
    repository = BundleRepository(root, opener, listener=diary, drain_timeout_s=10)
    yield repository
    repository.close()


@pytest.fixture
def publish(root: Path, tmp_path: Path) -> Callable[[str, int], Path]:
    def write(cascade: str, version: int) -> Path:
        return write_linear_bundle(root / cascade / str(version), tmp_path / f"{cascade}-{version}").path

    return write


Publish = Callable[[str, int], Path]


def states(repository: BundleRepository) -> dict[str, str]:
    return {f"{entry.name}/{entry.version}": entry.state for entry in repository.index()}


def test_the_newest_version_of_each_cascade_is_served(
    repository: BundleRepository, publish: Publish, diary: Diary
) -> None:
    for cascade, version in (("a", 2), ("a", 10), ("b", 1)):
        publish(cascade, version)
    ready = [repository.is_ready]
    repository.load_all()
    ready.append(repository.is_ready)
    assert ready == [False, True]
    assert diary.lines == ["a/10", "b/1"]
    with repository.acquire("a") as served:
        assert served.version == 10
    with repository.acquire("a", "10") as served:
        assert served.name == "a"
    with pytest.raises(NotFoundError, match=r"version of cascade 'a' '2' not found; known: 10"):
        repository.acquire("a", "2")
    with pytest.raises(NotFoundError, match="cascade 'c' not found; known: a, b"):
        repository.acquire("c")


def test_an_empty_repository_is_refused(repository: BundleRepository, root: Path) -> None:
    with pytest.raises(BundleError, match="holds no cascade"):
        repository.load_all()
    (root / "a" / "latest").mkdir(parents=True)
    (root / "a" / "latest" / PLAN_FILE).write_text("{}")
    with pytest.raises(BundleError, match="holds no cascade"):
        repository.load_all()


def test_a_broken_bundle_is_refused_at_the_start(repository: BundleRepository, publish: Publish) -> None:
    path = publish("a", 1)
    (path / "members" / "small" / "model.onnx").write_bytes(b"broken")
    with pytest.raises(BundleError, match="sha256"):
        repository.load_all()
    assert not repository.is_ready
    assert states(repository) == {"a/1": "UNAVAILABLE"}
    assert "sha256" in repository.index()[0].reason
    with pytest.raises(UnavailableError, match="cascade 'a' does not answer: it could not be loaded"):
        repository.acquire("a")


def test_a_new_version_is_swapped_in_while_requests_hold_the_old_one(
    repository: BundleRepository, publish: Publish, opener: Opener
) -> None:
    publish("a", 1)
    repository.load_all()
    held = repository.acquire("a")
    publish("a", 2)
    swap = threading.Thread(target=repository.refresh)
    swap.start()
    while states(repository).get("a/2") != "READY":
        pass
    with repository.acquire("a") as served:
        assert served.version == 2
    assert swap.is_alive()
    assert states(repository)["a/1"] == "UNLOADING"
    with held as old:
        assert old.version == 1
        assert old.engine.rows_in_flight == 0
    swap.join(10)
    assert states(repository) == {"a/1": "UNAVAILABLE", "a/2": "READY"}
    assert opener.engines["a", 1].drain(0)


def test_a_version_that_fails_leaves_the_old_one_serving(
    repository: BundleRepository, publish: Publish, root: Path, diary: Diary
) -> None:
    publish("a", 1)
    repository.load_all()
    plan = publish("a", 2) / PLAN_FILE
    whole = plan.read_bytes()
    plan.write_bytes(whole[:-100])
    repository.refresh()
    repository.refresh()
    assert repository.is_ready
    assert states(repository) == {"a/1": "READY", "a/2": "UNAVAILABLE"}
    plan.write_bytes(whole)
    os.utime(plan, ns=(1, 1))
    repository.refresh()
    assert states(repository) == {"a/1": "UNAVAILABLE", "a/2": "READY"}
    assert diary.lines == ["a/1", "a/2"]


def test_a_failing_warm_up_refuses_the_version(repository: BundleRepository, publish: Publish, opener: Opener) -> None:
    def fail(_member: int, rows: int) -> None:
        if rows == 2:
            raise MemberError("out of memory")

    opener.fails = fail
    publish("a", 1)
    with pytest.raises(BundleError, match="warm-up failed: out of memory"):
        repository.load_all()


def test_removing_the_newest_version_rolls_back_and_removing_all_lets_go(
    repository: BundleRepository, publish: Publish, root: Path, diary: Diary
) -> None:
    publish("b", 1)
    publish("a", 1)
    newest = publish("a", 2)
    repository.load_all()
    shutil.rmtree(newest)
    repository.refresh()
    assert diary.lines == ["a/2", "b/1", "a/1"]
    shutil.rmtree(root / "a")
    repository.refresh()
    assert diary.lines[-1] == "-a"
    assert states(repository) == {"b/1": "READY"}
    assert repository.is_ready
    with pytest.raises(NotFoundError):
        repository.acquire("a")


def test_an_unloaded_cascade_stays_away_until_it_is_loaded(repository: BundleRepository, publish: Publish) -> None:
    publish("a", 1)
    repository.load_all()
    repository.unload("a")
    repository.refresh()
    with pytest.raises(NotFoundError, match="cascade 'a' not found; known: none"):
        repository.acquire("a")
    with pytest.raises(NotFoundError):
        repository.unload("a")
    repository.load("a")
    with repository.acquire("a") as served:
        assert served.version == 1
    with pytest.raises(NotFoundError, match="cascade 'z' not found; known: a"):
        repository.load("z")


def test_watching_finds_new_cascades(repository: BundleRepository, publish: Publish, diary: Diary) -> None:
    publish("a", 1)
    repository.load_all()
    repository.watch(0.01)
    publish("b", 1)
    deadline = threading.Event()
    for _ in range(1000):
        if "b/1" in diary.lines:
            break
        deadline.wait(0.01)
    assert diary.lines == ["a/1", "b/1"]


@pytest.mark.parametrize("allow", [False, True])
def test_a_plan_measured_on_another_precision_is_refused_or_flagged(tmp_path: Path, allow: bool) -> None:
    measured_on = Fingerprint(engine="onnxruntime", precision="int8")
    bundle = write_linear_bundle(tmp_path / "a" / "1", tmp_path / "sources", measured_on=measured_on)
    config = OpeningConfig(allow_uncertified=allow)
    watcher = make_table_bench().watcher
    if allow:
        engine = open_engine(bundle, config, watcher)
        engine.warm_up()
        engine.close()
    else:
        with pytest.raises(BundleError, match="calibrated on onnxruntime in int8, and would be served on onnxruntime"):
            open_engine(bundle, config, watcher)


def test_a_device_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    bundle = write_linear_bundle(tmp_path / "a" / "1", tmp_path / "sources")
    with pytest.raises(CascadeError, match=r"device: got 'cuda'; this onnxruntime has only .*CPUExecutionProvider"):
        open_engine(bundle, OpeningConfig(device=Device.CUDA), make_table_bench().watcher)

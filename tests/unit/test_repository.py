"""Loading, swapping, draining and following a folder of bundles."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx_bundle import write_linear_bundle
from table_committee import make_plan, make_table_bench

from cascade_serve.bundle import PLAN_FILE, Bundle
from cascade_serve.core.plan import Fingerprint
from cascade_serve.core.request import Request
from cascade_serve.engine.onnx import Device
from cascade_serve.engine.opening import OpeningConfig, open_engine
from cascade_serve.engine.protocol import Engine
from cascade_serve.errors import BundleError, CascadeError, MemberError, NotFoundError, UnavailableError
from cascade_serve.repository import BundleRepository, ServedBundle


class Diary:
    """Notes what the repository tells."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.notes = 0

    def noted(self) -> None:
        self.notes += 1

    def swapped_in(self, served: ServedBundle) -> None:
        self.lines.append(f"{served.name}/{served.version}")

    def leaving(self, cascade: str) -> None:
        self.lines.append(f"~{cascade}")

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
    with pytest.raises(BundleError, match=f"^{root}: No such file or directory$"):
        repository.load_all()
    root.mkdir()
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
    assert diary.lines[-2:] == ["~a", "-a"]
    assert states(repository) == {"b/1": "READY"}
    assert repository.is_ready
    with pytest.raises(NotFoundError):
        repository.acquire("a")


def test_it_is_ready_once_every_cascade_is_loaded(root: Path, publish: Publish) -> None:
    publish("a", 1)
    publish("b", 1)
    told: list[tuple[str, bool, dict[str, str]]] = []

    class Listener(Diary):
        def swapped_in(self, served: ServedBundle) -> None:
            told.append((served.name, own.is_ready, states(own)))

    own = BundleRepository(root, Opener(), listener=Listener())
    own.load_all()
    own.close()
    assert told == [
        ("a", False, {"a/1": "READY", "b/1": "LOADING"}),
        ("b", True, {"a/1": "READY", "b/1": "READY"}),
    ]


def test_a_cascade_added_later_does_not_make_the_server_unready(
    repository: BundleRepository, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    publish("a", 1)
    repository.load_all()
    (publish("b", 1) / "members" / "small" / "model.onnx").write_bytes(b"broken")
    repository.refresh()
    assert "sha256" in caplog.text
    assert states(repository) == {"a/1": "READY", "b/1": "UNAVAILABLE"}
    assert repository.is_ready


def test_a_cascade_whose_engine_is_at_fault_is_not_ready_until_it_answers_again(
    repository: BundleRepository, publish: Publish, opener: Opener
) -> None:
    lost: set[str] = set()

    def fail_if_lost(cascade: str) -> Callable[[int, int], None]:
        def fail(_member: int, _rows: int) -> None:
            if cascade in lost:
                raise MemberError("the device is lost")

        return fail

    def ask(cascade: str) -> None:
        with repository.acquire(cascade) as served:
            served.engine.admit(Request(images_BHWC=np.zeros((1, 1, 1, 1), dtype=np.uint8))).result()

    for cascade in ("a", "b"):
        publish(cascade, 1)
        opener.fails = fail_if_lost(cascade)
        repository.load(cascade)
    ready = []
    for cascade in ("a", "b"):
        lost.add(cascade)
        with pytest.raises(MemberError):
            ask(cascade)
        ready.append(repository.is_ready)
        if cascade == "a":
            ask("b")
            assert states(repository) == {"a/1": "UNAVAILABLE", "b/1": "READY"}
            assert repository.index()[0].reason == "member 'small' fails on every image: the device is lost"
    lost.clear()
    ask("a")
    assert [*ready, repository.is_ready] == [True, False, True]
    assert states(repository) == {"a/1": "READY", "b/1": "UNAVAILABLE"}


def test_a_version_that_is_still_being_copied_is_tried_again(repository: BundleRepository, publish: Publish) -> None:
    publish("a", 1)
    repository.load_all()
    graph = publish("a", 2) / "members" / "small" / "model.onnx"
    graph.rename(graph.with_suffix(".copying"))
    repository.refresh()
    assert states(repository) == {"a/1": "READY", "a/2": "UNAVAILABLE"}
    graph.with_suffix(".copying").rename(graph)
    repository.refresh()
    assert states(repository) == {"a/1": "UNAVAILABLE", "a/2": "READY"}


def test_a_lost_folder_changes_nothing(
    repository: BundleRepository, publish: Publish, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish("a", 1)
    repository.load_all()
    root.rename(root.with_name("elsewhere"))
    for _ in range(2):
        repository.refresh()
    root.mkdir()
    repository.refresh()
    with repository.acquire("a") as served:
        assert served.version == 1
    assert repository.is_ready
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        f"{root}: No such file or directory; what is loaded is served on",
        f"{root}: holds no cascade, that is no <cascade>/<version>/plan.json; what is loaded is served on",
    ]


def test_a_cascade_whose_folder_can_not_be_read_is_served_on(
    repository: BundleRepository, publish: Publish, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for cascade in ("a", "b"):
        publish(cascade, 1)
    repository.load_all()
    shutil.rmtree(root / "a")
    # Not even root can read a link to itself.
    (root / "a").symlink_to(root / "a")
    publish("b", 2)
    repository.refresh()
    assert f"{root / 'a'}: Too many levels of symbolic links" in caplog.text
    assert states(repository) == {"a/1": "READY", "b/1": "UNAVAILABLE", "b/2": "READY"}


def test_a_version_replaced_in_place_is_served_on_and_told_once(
    repository: BundleRepository, publish: Publish, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = publish("a", 1) / PLAN_FILE
    repository.load_all()
    plan.touch()
    repository.refresh()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    plan.write_text(plan.read_text().replace('"flops": ', '"flops": 1'))
    for _ in range(2):
        repository.refresh()
    with repository.acquire("a") as served:
        assert served.version == 1
    (error,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "its files are not those that are served; publish what has changed as a new version" in error


def test_what_is_no_cascade_is_passed_over(repository: BundleRepository, publish: Publish, root: Path) -> None:
    publish("vögel.v2", 1)
    # The writer refuses such names; somebody may still rename a folder.
    for name in (".hidden", "line\nbreak"):
        shutil.copytree(root / "vögel.v2", root / name)
    (root / "notes.txt").write_text("a file")
    (root / "lost+found").mkdir()
    repository.load_all()
    assert states(repository) == {"vögel.v2/1": "READY"}


def test_a_removed_version_leaves_the_index(repository: BundleRepository, publish: Publish) -> None:
    old = publish("a", 1)
    repository.load_all()
    publish("a", 2)
    repository.refresh()
    shutil.rmtree(old)
    repository.refresh()
    assert states(repository) == {"a/2": "READY"}


def test_a_cascade_that_leaves_is_withdrawn_before_its_requests_end(
    repository: BundleRepository, publish: Publish, diary: Diary
) -> None:
    publish("a", 1)
    repository.load_all()
    with ThreadPoolExecutor(1) as pool, repository.acquire("a"):
        unloading = pool.submit(repository.unload, "a")
        while "~a" not in diary.lines:
            pass
        assert states(repository) == {"a/1": "UNLOADING"}
        assert diary.lines == ["a/1", "~a"]
    unloading.result(10)
    assert diary.lines == ["a/1", "~a", "-a"]


def test_nothing_is_loaded_after_the_end(repository: BundleRepository, publish: Publish, diary: Diary) -> None:
    publish("a", 1)
    repository.load_all()
    repository.close()
    publish("a", 2)
    repository.refresh()
    assert diary.lines == ["a/1", "~a", "-a"]


def test_a_loader_that_breaks_leaves_no_version_loading(
    root: Path, publish: Publish, opener: Opener, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    def open_engine(bundle: Bundle) -> Engine:
        if bundle.version == 2:
            raise RuntimeError("unforeseen")
        return opener(bundle)

    publish("a", 1)
    repository = BundleRepository(root, open_engine, listener=diary)
    repository.load_all()
    publish("a", 2)
    repository.watch(0.01)
    while states(repository).get("a/2") != "UNAVAILABLE":
        pass
    publish("a", 3)
    while states(repository).get("a/3") != "READY":
        pass
    repository.close()
    assert "unforeseen" in caplog.text


def test_no_request_fails_during_swaps(repository: BundleRepository, publish: Publish) -> None:
    image_BHWC = np.zeros((1, *make_plan().task.image_shape), dtype=np.uint8)
    publish("a", 1)
    repository.load_all()
    is_over = threading.Event()

    def ask() -> set[int]:
        versions = set()
        while not is_over.is_set():
            with repository.acquire("a") as served:
                versions.add(served.version)
                served.engine.admit(Request(images_BHWC=image_BHWC)).result()
        return versions

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        for version in range(2, 8):
            publish("a", version)
            repository.refresh()
        is_over.set()
        assert set.union(*[future.result(10) for future in asking]) <= set(range(1, 8))


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

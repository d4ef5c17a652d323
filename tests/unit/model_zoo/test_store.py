"""The zoo on disk: round trips, checksums, names, and writes that are interrupted."""

import json
import os
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from model_zoo import store
from model_zoo.card import Card, CostCard, InputCard, ProvenanceCard, TaskCard
from model_zoo.errors import CardError, ConflictError

TASK = TaskCard(height=8, width=8, channels=1, classes=("one", "two", "drei"))


def make_card(name: str) -> Card:
    return Card(
        name=name,
        architecture="digits_cnn_xs",
        task=TASK,
        input=InputCard(height=8, width=8, mean=(0.5,), std=(0.25,)),
        cost=CostCard(flops=2, macs=1, params=3, tool="test"),
        provenance=ProvenanceCard(weights="random"),
    )


def make_data(rows: int = 4) -> store.CalibrationData:
    return store.CalibrationData(
        logits_NK=np.arange(rows * 3, dtype=np.float32).reshape(rows, 3),
        labels_N=np.arange(rows, dtype=np.int64) % 3,
        sample_ids_N=np.arange(rows, dtype=np.int64) - 2,
    )


def write(task_path: Path, name: str, *, overwrite: bool = False, graph: bytes = b"graph") -> None:
    store.bind_task(task_path, TASK)
    with store.new_member(task_path, name, overwrite=overwrite) as folder:
        (folder / store.GRAPH_FILE).write_bytes(graph)
        store.write_calibration(folder, make_data())
        store.write_card(folder, make_card(name))


def write_half(task_path: Path) -> None:
    with store.new_member(task_path, "late") as folder:
        (folder / store.GRAPH_FILE).write_bytes(b"half")
        assert store.list_members(task_path) == ("small",)
        raise KeyboardInterrupt


@pytest.fixture
def task_path(tmp_path: Path) -> Path:
    write(tmp_path / "zoo" / "digits", "small")
    return tmp_path / "zoo" / "digits"


def test_round_trip(task_path: Path) -> None:
    member = store.read_member(task_path / "small")
    assert member.name == "small"
    assert set(member.card.files) == {store.GRAPH_FILE, store.CALIBRATION_FILE}
    data = store.read_calibration(member)
    np.testing.assert_array_equal(data.logits_NK, make_data().logits_NK)
    np.testing.assert_array_equal(data.sample_ids_N, [-2, -1, 0, 1])
    assert store.read_task(task_path) == TASK
    assert store.list_tasks(task_path.parent) == ("digits",)


@pytest.mark.parametrize("file", [store.GRAPH_FILE, store.CALIBRATION_FILE])
def test_a_changed_file_is_refused(task_path: Path, file: str) -> None:
    with (task_path / "small" / file).open("ab") as stream:
        stream.write(b"!")
    with pytest.raises(CardError, match=rf"{file}: sha256: got [0-9a-f]{{64}}; must be [0-9a-f]{{64}}"):
        store.read_member(task_path / "small")


def test_a_missing_file_is_refused(task_path: Path) -> None:
    (task_path / "small" / store.GRAPH_FILE).unlink()
    with pytest.raises(CardError, match=r"model.onnx: No such file"):
        store.read_member(task_path / "small")


def test_a_file_outside_the_folder_is_refused(task_path: Path) -> None:
    card = store.read_member(task_path / "small").card
    (task_path / "outside").write_bytes(b"x")
    changed = card.model_copy(update={"files": {**card.files, "../outside": "0" * 64}})
    (task_path / "small" / store.CARD_FILE).write_text(changed.to_json())
    with pytest.raises(CardError, match="outside: lies outside"):
        store.read_member(task_path / "small")


def test_a_card_of_another_member_is_refused(task_path: Path) -> None:
    (task_path / "small").rename(task_path / "other")
    with pytest.raises(CardError, match=r"name: got 'small' in card.json; must be that of the folder"):
        store.read_member(task_path / "other")


def test_an_interrupted_write_leaves_nothing(task_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_half(task_path)
    assert store.list_members(task_path) == ("small",)
    assert sorted(path.name for path in task_path.iterdir()) == ["small", "task.json"]


def write_slowly(task_path: Path) -> None:
    with store.new_member(task_path, "late") as folder:
        (folder / store.GRAPH_FILE).write_bytes(b"slow")
        write(task_path, "late", graph=b"quick")
        assert (folder / store.GRAPH_FILE).read_bytes() == b"slow"
        store.write_card(folder, make_card("late"))


def test_of_two_writers_of_one_name_the_first_to_end_wins_and_neither_harms_the_other(task_path: Path) -> None:
    with pytest.raises(ConflictError, match="late: exists already"):
        write_slowly(task_path)
    assert store.read_member(task_path / "late").graph_path.read_bytes() == b"quick"
    assert sorted(path.name for path in task_path.iterdir()) == ["late", "small", "task.json"]


def test_threads_that_bind_a_new_task_agree_on_one(tmp_path: Path) -> None:
    tasks = [TASK.model_copy(update={"height": 8 + number % 2}) for number in range(16)]

    def bind(task: TaskCard) -> TaskCard | None:
        try:
            store.bind_task(tmp_path / "new", task)
        except ConflictError:
            return None
        return task

    with ThreadPoolExecutor(8) as pool:
        bound = {task.height for task in pool.map(bind, tasks) if task is not None}
    assert bound == {store.read_task(tmp_path / "new").height}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["task.json"]


@contextmanager
def small_disk(size_bytes: int) -> Iterator[None]:
    """Let no file grow beyond a size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_much(task_path: Path, graph: bytes) -> None:
    with store.new_member(task_path, "late") as folder:
        (folder / store.GRAPH_FILE).write_bytes(graph)
        store.write_calibration(folder, make_data(rows=1000))


@pytest.mark.parametrize("graph", [b"", b"x" * 9999])
def test_a_full_disk_is_told_and_leaves_nothing(task_path: Path, graph: bytes) -> None:
    with small_disk(5000), pytest.raises(CardError, match=r"late.*: .*[Ff]ile too large"):
        write_much(task_path, graph)
    assert sorted(path.name for path in task_path.iterdir()) == ["small", "task.json"]


def test_a_zoo_that_can_not_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CardError, match="file is not a writable folder"):
        store.check_free(tmp_path / "file" / "task" / "late", overwrite=False)
    store.check_free(tmp_path / "new" / "task" / "late", overwrite=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_zoo_is_refused_at_once(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CardError, match="is not a writable folder"):
        store.check_free(tmp_path / "task" / "late", overwrite=False)
    tmp_path.chmod(0o700)


def test_a_member_without_a_card_is_refused(task_path: Path) -> None:
    with pytest.raises(CardError, match=r"got no card.json"), store.new_member(task_path, "late"):
        pass


def test_an_existing_member_is_kept_unless_it_may_be_replaced(task_path: Path) -> None:
    with pytest.raises(ConflictError, match="small: exists already"):
        write(task_path, "small", graph=b"new")
    assert (task_path / "small" / store.GRAPH_FILE).read_bytes() == b"graph"
    write(task_path, "small", overwrite=True, graph=b"new")
    assert store.read_member(task_path / "small").graph_path.read_bytes() == b"new"
    assert sorted(path.name for path in task_path.iterdir()) == ["small", "task.json"]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "a b", "a,b", "a:1", "ü", "x" * 101, "a\n"])
def test_names_that_could_be_mistaken_are_refused(task_path: Path, name: str) -> None:
    with pytest.raises(CardError, match="member name: got"), store.new_member(task_path, name):
        pass


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"height": 9}, "height: got 9; must be 8"),
        ({"channels": 3}, "channels: got 3; must be 1"),
        ({"classes": ("one", "two", "three")}, "classes: got .*'three'.*; must be .*'drei'"),
    ],
)
def test_a_task_binds_later_members(task_path: Path, update: dict[str, object], message: str) -> None:
    with pytest.raises(ConflictError, match=message):
        store.bind_task(task_path, TASK.model_copy(update=update))


def test_of_many_class_names_the_message_shows_the_first_that_differs(tmp_path: Path) -> None:
    names = tuple(f"class{number}" for number in range(1000))
    bound = TASK.model_copy(update={"classes": names})
    other = bound.model_copy(update={"classes": (*names[:500], "odd", *names[501:])})
    with pytest.raises(ConflictError, match=r"1000 names, number 500 of them \('odd',\)") as caught:
        store.check_task(bound, other, tmp_path)
    assert len(str(caught.value)) < 300


def test_binding_the_same_task_again_changes_nothing(task_path: Path) -> None:
    before = (task_path / store.TASK_FILE).stat().st_mtime_ns
    store.bind_task(task_path, TASK)
    assert (task_path / store.TASK_FILE).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.zeros(4, dtype=np.int32)}, "labels: got int32"),
        ({"logits": np.zeros((4, 4), dtype=np.float32)}, "logits: got 4 classes; must be 3"),
        ({"logits": np.zeros((5, 3), dtype=np.float32)}, r"got logits \(5, 3\), labels \(4,\)"),
        ({"labels": np.full(4, 3, dtype=np.int64)}, "calibration labels: got 3 to 3; must be from 0 to 2"),
    ],
)
def test_calibration_of_a_wrong_shape_is_refused(task_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    data = make_data()
    whole: dict[str, np.ndarray] = {"logits": data.logits_NK, "labels": data.labels_N, "sample_ids": data.sample_ids_N}
    save_file({**whole, **arrays}, task_path / "small" / store.CALIBRATION_FILE)
    member = store.read_member(task_path / "small", verify=False)
    with pytest.raises(CardError, match=message):
        store.read_calibration(member)


def test_broken_task_and_card_are_named(task_path: Path) -> None:
    (task_path / store.TASK_FILE).write_text("{}")
    with pytest.raises(CardError, match=r"task.json: "):
        store.read_task(task_path)
    (task_path / "small" / store.CARD_FILE).write_text("not json")
    with pytest.raises(CardError, match=r"card.json: "):
        store.read_member(task_path / "small")


@pytest.mark.parametrize("seconds", ['{"0": 0.1}', '{"1": 0.0}', '{"1": -0.1}', '{"1": 1e999}', '{"many": 0.1}'])
def test_a_profile_that_can_not_be_is_refused(task_path: Path, seconds: str) -> None:
    file = task_path / "small" / store.CARD_FILE
    file.write_text(file.read_text().replace('"seconds": null', f'"seconds": {seconds}'))
    with pytest.raises(CardError, match=r"(?s)card.json: .*cost\.seconds"):
        store.read_member(task_path / "small")


def test_a_card_from_before_precisions_engines_and_profiles_is_read(task_path: Path) -> None:
    file = task_path / "small" / store.CARD_FILE
    raw = json.loads(file.read_text())
    del raw["precision"], raw["engine"], raw["conversion"], raw["cost"]["profiled_on"], raw["cost"]["profiled_device"]
    file.write_text(json.dumps(raw))
    card = store.read_member(task_path / "small").card
    assert (card.precision, card.engine, card.conversion) == ("fp32", "onnxruntime", None)


def test_missing_zoo_is_named(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="absent: No such file"):
        store.list_tasks(tmp_path / "absent")

"""What planning reads from a zoo, and what it refuses."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planned_zoo import CLASSES, NAMES, draw_rows, write_member, write_zoo

from cascade_serve.bundle import sha256_file
from cascade_serve.errors import ConfigError
from cascade_serve.planner.zoo_rows import ZooRows, plan_member, read_zoo_members, read_zoo_rows
from model_zoo.card import TaskCard
from model_zoo.errors import CardError, ConflictError
from model_zoo.store import CalibrationData

TASK = TaskCard(height=4, width=4, channels=3, classes=CLASSES)


def zoo_with(tmp_path: Path, data: CalibrationData | None) -> Path:
    """A zoo whose member ``large`` says something else."""
    task_path = write_zoo(tmp_path / "animals", draw_rows(1, 40))
    write_member(task_path, "large", 6_000_000, TASK, data)
    return task_path


def said(rows: ZooRows) -> CalibrationData:
    return CalibrationData(logits_NK=rows.logits[2], labels_N=rows.labels_N, sample_ids_N=rows.sample_ids_N)


def test_members_come_from_cheap_to_dear_or_as_named(tmp_path: Path) -> None:
    task_path = write_zoo(tmp_path / "animals", draw_rows(1, 40))
    assert [member.name for member in read_zoo_members(task_path, None)] == list(NAMES)
    assert [member.name for member in read_zoo_members(task_path, ["large", "small"])] == ["large", "small"]


def test_unknown_repeated_and_no_members_are_named(tmp_path: Path) -> None:
    task_path = write_zoo(tmp_path / "animals", draw_rows(1, 40))
    with pytest.raises(ConfigError, match=r"members: got 'huge'; must be among large, middle, small"):
        read_zoo_members(task_path, ["huge"])
    with pytest.raises(ConfigError, match=r"members: got 'small' 2 times; must be once"):
        read_zoo_members(task_path, ["small", "small"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="members: got none"):
        read_zoo_members(tmp_path / "empty", None)
    with pytest.raises(CardError, match="absent"):
        read_zoo_members(tmp_path / "absent", None)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (TASK.model_copy(update={"height": 5}), r"large/card\.json: height: got 5; must be 4"),
        (TASK.model_copy(update={"classes": CLASSES[::-1]}), r"large/card\.json: classes: got \('owl'"),
    ],
)
def test_a_member_of_another_task_is_refused(tmp_path: Path, other: TaskCard, message: str) -> None:
    # Such as one copied from another zoo by hand.
    task_path = write_zoo(tmp_path / "animals", draw_rows(1, 40))
    write_member(task_path, "large", 6_000_000, other, None)
    with pytest.raises(ConflictError, match=message):
        read_zoo_members(task_path, None)


@pytest.mark.parametrize(
    "file", ["task.json", "middle/card.json", "middle/model.onnx", "middle/calibration.safetensors"]
)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[]", None])
def test_broken_files_are_named(tmp_path: Path, file: str, content: bytes | None) -> None:
    task_path = write_zoo(tmp_path / "animals", draw_rows(1, 40))
    (task_path / file).unlink()
    if content is not None:
        (task_path / file).write_bytes(content)
    if content is None and file == "middle/card.json":
        assert "middle" not in [member.name for member in read_zoo_members(task_path, None)]
        return
    with pytest.raises(CardError, match=re.escape(file)):
        read_zoo_members(task_path, None)


def test_other_rows_are_refused_by_name(tmp_path: Path) -> None:
    rows = draw_rows(1, 40)
    task_path = zoo_with(tmp_path, said(replace(rows, sample_ids_N=rows.sample_ids_N[::-1])))
    with pytest.raises(ConfigError, match=r"member 'large': its 40 calibration rows are not the 40 of 'small'"):
        read_zoo_rows(read_zoo_members(task_path, None))


def test_other_labels_are_refused_by_name(tmp_path: Path) -> None:
    rows = draw_rows(1, 40)
    task_path = zoo_with(tmp_path, said(replace(rows, labels_N=(rows.labels_N + 1) % 4)))
    with pytest.raises(ConfigError, match="member 'large': its calibration labels are not those of 'small'"):
        read_zoo_rows(read_zoo_members(task_path, None))


def test_member_without_calibration_or_answers_is_named(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"large.*calibration\.safetensors"):
        read_zoo_rows(read_zoo_members(zoo_with(tmp_path, None), None))
    rows = draw_rows(1, 40)
    nothing = replace(rows, logits=(*rows.logits[:2], np.full((40, 4), np.nan, np.float32)))
    with pytest.raises(ConfigError, match="member 'large': got no finite logits on any calibration row"):
        read_zoo_rows(read_zoo_members(zoo_with(tmp_path, said(nothing)), None))


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    task_path = write_zoo(tmp_path / "animals", draw_rows(1, 19))
    with pytest.raises(ConfigError, match="calibration: got 19 different images; must be at least 20"):
        read_zoo_rows(read_zoo_members(task_path, None))


def test_images_that_stand_there_twice_count_once(tmp_path: Path) -> None:
    # The same image in both halves would be tested on what it was chosen on.
    rows = draw_rows(1, 40)
    task_path = write_zoo(tmp_path / "animals", replace(rows, sample_ids_N=np.arange(40) // 2 * 2))
    read = read_zoo_rows(read_zoo_members(task_path, None))
    assert read.num_repeated == 20
    assert read.sample_ids_N.tolist() == list(range(0, 40, 2))
    assert np.array_equal(read.logits[1], rows.logits[1][::2])


def test_fingerprint_depends_on_ids_and_labels() -> None:
    rows = draw_rows(1, 40)
    prints = {
        rows.fingerprint(),
        rows.fingerprint(np.arange(39)),
        replace(rows, labels_N=rows.labels_N[::-1]).fingerprint(),
        replace(rows, sample_ids_N=rows.sample_ids_N + 1).fingerprint(),
    }
    assert len(prints) == 4
    assert rows.fingerprint(np.arange(40)) == rows.fingerprint()


def test_plan_member_carries_graph_and_card_alone(tmp_path: Path) -> None:
    task_path = write_zoo(tmp_path / "animals", draw_rows(1, 40))
    member = read_zoo_members(task_path, ["middle"])[0]
    planned = plan_member(member, 1.5)
    assert planned.files == {name: sha256_file(member.path / name) for name in ("model.onnx", "card.json")}
    assert (planned.flops, planned.temperature, planned.precision) == (2_500_000, 1.5, "fp32")

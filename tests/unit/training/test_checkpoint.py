"""Checkpoints are whole or not there, come back as they were, and never run code."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from training.energy import Energy
from training.errors import CheckpointError
from training.reports import EpochReport

REPORT = EpochReport(
    epoch=1,
    epochs=2,
    loss=0.5,
    accuracy=0.25,
    lr=0.1,
    evaluations=10,
    seconds=1.5,
    process_seconds=2.5,
    input_seconds=0.5,
    peak_memory_bytes=1000,
)
CHECKPOINT = Checkpoint(
    run={"totals": {"epochs": 1}, "weights": torch.arange(3.0), "nothing": None, "pair": (0.9, 0.999)},
    reports=(REPORT, replace(REPORT, epoch=2, validation_accuracy=0.75)),
    energy=Energy(joules=2.0, tool="fake"),
)


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "größe.pt"
    write_checkpoint(CHECKPOINT, path)
    found = read_checkpoint(path)
    assert found is not None
    assert torch.equal(found.run["weights"], torch.arange(3.0))
    assert {name: found.run[name] for name in ("totals", "nothing", "pair")} == {
        "totals": {"epochs": 1},
        "nothing": None,
        "pair": (0.9, 0.999),
    }
    assert found.reports == CHECKPOINT.reports
    assert found.energy == CHECKPOINT.energy
    assert list(path.parent.iterdir()) == [path]


def test_an_older_one_stays_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    write_checkpoint(CHECKPOINT, path)
    before = path.read_bytes()

    def fail(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: No space left on device$"):
        write_checkpoint(replace(CHECKPOINT, reports=()), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_no_file_is_no_checkpoint(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path / "checkpoint.pt") is None


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code was run",))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"version": 1, "run": Trap()}, path)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: is damaged or no checkpoint; remove it to start anew$"):
        read_checkpoint(path)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("kept", [0, 1, 100, -1, -100])
def test_a_damaged_file_is_named(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "checkpoint.pt"
    write_checkpoint(CHECKPOINT, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: is damaged or no checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"not a checkpoint", pickle.dumps({"version": 1}), b"\x80\x02."])
def test_another_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: "):
        read_checkpoint(path)


@pytest.mark.parametrize(("content", "version"), [({"version": 2}, "2"), ({}, "None"), ([1], "None")])
def test_another_version_is_refused(tmp_path: Path, content: object, version: str) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=rf"checkpoint\.pt: version: got {version}; must be 1; remove it"):
        read_checkpoint(path)


@pytest.mark.parametrize("fields", [{}, {"run": {}, "reports": [{"epoch": 1}], "energy": {}}])
def test_other_fields_are_refused(tmp_path: Path, fields: dict[str, object]) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"version": 1, **fields}, path)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: has other fields than this version writes; remove it"):
        read_checkpoint(path)


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r": (Is a directory|Permission denied)$"):
        read_checkpoint(tmp_path)

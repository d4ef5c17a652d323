"""Logs: their formats, what a resume leaves of them, and what they say where they can't be written."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from training.errors import LogError
from training.logs import TensorboardLog, dawnbench_log, json_log
from training.reports import EpochReport

FIRST = EpochReport(
    epoch=1,
    epochs=3,
    loss=0.5,
    accuracy=0.25,
    validation_accuracy=0.40625,
    lr=0.1,
    evaluations=10,
    seconds=1.8,
    process_seconds=2.5,
    input_seconds=0.5,
    peak_memory_bytes=1000,
)
SECOND = replace(FIRST, epoch=2, validation_accuracy=None, seconds=3.6)
THIRD = replace(FIRST, epoch=3, validation_accuracy=0.94, seconds=36.0)


def test_json_lines_hold_every_field(tmp_path: Path) -> None:
    log = json_log(tmp_path / "new" / "log.jsonl")
    log.start(())
    log.write(FIRST)
    log.write(SECOND)
    lines = (tmp_path / "new" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [asdict(FIRST), asdict(SECOND)]
    assert json.loads(lines[1])["validation_accuracy"] is None


def test_dawnbench_takes_epoch_hours_and_percent(tmp_path: Path) -> None:
    log = dawnbench_log(tmp_path / "dawnbench.tsv")
    log.start(())
    for report in (FIRST, SECOND, THIRD):
        log.write(report)
    assert (tmp_path / "dawnbench.tsv").read_bytes() == (
        b"epoch\thours\ttop1Accuracy\n1\t0.00050000\t40.62\n3\t0.01000000\t94.00\n"
    )


@pytest.mark.parametrize("make", [json_log, dawnbench_log])
def test_a_resume_drops_what_lies_after_the_checkpoint(tmp_path: Path, make: object) -> None:
    assert callable(make)
    straight, resumed = make(tmp_path / "straight"), make(tmp_path / "resumed")
    straight.start(())
    for report in (FIRST, THIRD):
        straight.write(report)
    killed = make(tmp_path / "resumed")
    killed.start(())
    for report in (FIRST, SECOND, THIRD):
        killed.write(report)
    resumed.start((FIRST,))
    resumed.write(THIRD)
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "straight").read_bytes()


def test_a_log_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(LogError, match=r"taken.*: (Not a directory|File exists)$"):
        json_log(tmp_path / "taken" / "log.jsonl").start(())
    with pytest.raises(LogError, match=r"log\.jsonl: No such file or directory$"):
        json_log(tmp_path / "absent" / "log.jsonl").write(FIRST)


def test_tensorboard_holds_the_scalars_once_after_a_resume(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    killed = TensorboardLog(tmp_path)
    killed.start(())
    killed.write(FIRST)
    killed.write(replace(SECOND, loss=9.0))
    killed.close()
    resumed = TensorboardLog(tmp_path)
    resumed.start((FIRST,))
    resumed.write(SECOND)
    resumed.write(THIRD)
    resumed.close()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert [event.step for event in events.Scalars("validation_accuracy")] == [1, 3]
    assert "epoch" not in events.Tags()["scalars"]


def test_without_tensorboard_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = TensorboardLog(tmp_path)
    with pytest.raises(LogError, match=r"^tensorboard is not installed; install cascade-serve\[tensorboard\], or"):
        log.start(())
    log.close()

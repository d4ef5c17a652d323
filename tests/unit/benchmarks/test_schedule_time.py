"""Trainings side by side: the one furthest behind takes the next step, and one that breaks ends the experiment."""

import pytest

from benchmarks.training.schedule_time import PacedRun, make_table, run_side_by_side
from benchmarks.training.tasks import digits_setting
from training.data_schedule.config import AllData, DataStep
from training.run import TrainingRun

EPOCHS = 2


def make_runs() -> list[PacedRun]:
    setting = digits_setting(EPOCHS, "cpu")
    task = setting.task(0)
    return [PacedRun(setting, task, schedule, 0) for schedule in (AllData(), DataStep(fraction=0.5, share=0.5))]


def test_trainings_side_by_side_keep_in_step(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = make_runs()
    shares: list[list[float]] = []
    step = PacedRun.step

    def watched(run: PacedRun) -> None:
        shares.append([one.share for one in runs])
        step(run)

    monkeypatch.setattr(PacedRun, "step", watched)
    run_side_by_side(runs)
    whole, reduced = runs
    assert reduced.evaluations == whole.evaluations * 3 // 4
    assert [run.share for run in runs] == [1.0, 1.0]
    assert all(run.seconds > 0 for run in runs)
    # Each takes some thirty steps.
    assert max(abs(first - second) for first, second in shares) < 0.1


def test_a_training_that_breaks_ends_the_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_run: TrainingRun) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(TrainingRun, "run_epoch", fail)
    with pytest.raises(ZeroDivisionError):
        run_side_by_side(make_runs())


def test_the_table_has_medians_over_seeds_and_points_above() -> None:
    measured = [{"all data": (1.0, 1.0), "half": (0.5, ratio)} for ratio in (0.51, 0.6, 0.49)]
    assert make_table(measured).splitlines()[-1] == "| half | 50.0 | 51.0 (49.0 to 60.0) | +1.0 |"

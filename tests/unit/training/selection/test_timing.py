"""Laps and sums."""

from training.selection.timing import PhaseSeconds, SelectionSeconds, Stopwatch


def test_laps_are_from_the_last_one() -> None:
    wall, process = iter([10.0, 12.5, 13.0]), iter([1.0, 4.0, 4.25])
    stopwatch = Stopwatch(lambda: next(wall), lambda: next(process))
    assert stopwatch.lap() == PhaseSeconds(wall_s=2.5, process_s=3.0)
    assert stopwatch.lap() == PhaseSeconds(wall_s=0.5, process_s=0.25)


def test_phases_sum_up() -> None:
    one = SelectionSeconds(
        training=PhaseSeconds(wall_s=1, process_s=2),
        scoring=PhaseSeconds(wall_s=4, process_s=8),
        ranking=PhaseSeconds(wall_s=16, process_s=32),
    )
    assert one.total == PhaseSeconds(wall_s=21, process_s=42)
    assert (one + one).ranking == PhaseSeconds(wall_s=32, process_s=64)
    assert (one + SelectionSeconds()) == one


def test_the_longer_account_counts() -> None:
    lap = PhaseSeconds(wall_s=2, process_s=1)
    assert lap.at_least(PhaseSeconds(wall_s=1, process_s=4)) == PhaseSeconds(wall_s=2, process_s=4)
    assert lap.at_least(PhaseSeconds()) == lap

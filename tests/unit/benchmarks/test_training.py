"""The experiments of training can be set up: their runs take hours, and nothing else would tell early."""

from benchmarks.training.ladder import KINDS
from benchmarks.training.tasks import digits_setting


def test_every_comparison_of_the_ladder_has_arms_that_can_be_built() -> None:
    setting = digits_setting(4, "cpu")
    for kind, make in KINDS.items():
        experiment = make(setting, 2)
        names = [arm.name for arm in experiment.arms]
        assert len(names) == len(set(names)) >= 3, kind
        assert experiment.baseline in names

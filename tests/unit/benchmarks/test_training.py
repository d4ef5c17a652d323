"""The experiments of training can be set up: their runs take hours, and nothing else would tell early."""

import argparse

from benchmarks.training.ladder import KINDS
from benchmarks.training.tasks import add_setting, read_setting


def test_every_comparison_of_the_ladder_has_arms_that_can_be_built() -> None:
    parser = argparse.ArgumentParser()
    add_setting(parser)
    setting = read_setting(parser.parse_args(["--task", "digits", "--epochs", "4"]))
    for kind, make in KINDS.items():
        experiment = make(setting, 2)
        names = [arm.name for arm in experiment.arms]
        assert len(names) == len(set(names)) >= 3, kind
        assert experiment.baseline in names

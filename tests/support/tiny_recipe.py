"""A recipe that takes seconds: two small members on few digits; also what a user's own recipe file looks like."""

from dataclasses import replace

from training.config import RunConfig
from training.data.splits import SplitConfig
from training.data_schedule.config import AllData
from training.members import MemberConfig
from training.recipes.digits import digits


def tiny(*, device: str = "cpu", seed: int = 0) -> RunConfig:
    """Give the digits' run with fewer images, epochs and trials."""
    config = digits(device=device, seed=seed)
    assert config.selection is not None
    assert config.policy_search is not None
    short = replace(config.members[0].loop, epochs=3)
    proxy = replace(config.selection.proxy, loop=replace(short, epochs=2, data_schedule=AllData()))
    search = replace(
        config.policy_search,
        population=2,
        perturbation_interval=1,
        train_images=60,
        architecture="digits_cnn_xs",
        loop=replace(config.policy_search.loop, epochs=2),
        checkpoint_interval_s=0,
    )
    return replace(
        config,
        splits=SplitConfig(policy_validation=40, calibration=200, test=1357, seed=seed),
        selection=replace(config.selection, proxy=proxy),
        policy_search=search,
        members=(
            MemberConfig(name="xs", architecture="digits_cnn_xs", loop=short),
            MemberConfig(name="s", architecture="digits_cnn_s", loop=short),
        ),
    )


def tiny_plain(*, device: str = "cpu", seed: int = 0) -> RunConfig:
    """Give the same members without selection and search."""
    return replace(tiny(device=device, seed=seed), should_select=False, should_search=False)

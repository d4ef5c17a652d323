"""The configuration of a run: what it refuses, and that it comes back from JSON as it was."""

from dataclasses import replace

import pytest
from tiny_recipe import tiny, tiny_plain

from training.config import RunConfig, member_stage
from training.members import MemberConfig
from training.settings import apply_settings, from_json, to_json


@pytest.mark.parametrize("config", [tiny(seed=3), tiny_plain()])
def test_json_gives_the_same_configuration_back(config: RunConfig) -> None:
    assert from_json(RunConfig, to_json(config)) == config


def test_settings_reach_every_corner() -> None:
    config = apply_settings(
        tiny(),
        [
            "members.1.loop.epochs=7",
            "members.*.loop.batch_size=16",
            "selection.core_set.score=margin",
            "policy_search.population=5",
            'members.0.arguments={"layers": [[2, 2]]}',
            "splits.seed=9",
            "should_search=false",
            "energy_country=FRA",
        ],
    )
    assert [member.loop.epochs for member in config.members] == [3, 7]
    assert {member.loop.batch_size for member in config.members} == {16}
    assert config.selection is not None
    assert config.selection.core_set.score == "margin"
    assert config.policy_search is not None
    assert config.policy_search.population == 5
    assert config.members[0].arguments == {"layers": [[2, 2]]}
    assert (config.splits.seed, config.should_search, config.energy_country) == (9, False, "FRA")


def _member(name: str) -> MemberConfig:
    return MemberConfig(name=name, architecture="digits_cnn_xs")


def test_no_members() -> None:
    with pytest.raises(ValueError, match=r"^members: got names \[\]; must be at least one, and all different$"):
        replace(tiny(), members=())


def test_members_of_one_name() -> None:
    with pytest.raises(ValueError, match=r"members: got names .*; must be at least one, and all different"):
        replace(tiny(), members=(_member("a"), _member("a")))


def test_members_whose_folders_would_be_one() -> None:
    with pytest.raises(ValueError, match=r"members: got names \['a.b', 'A_b'\]; must differ in more than"):
        replace(tiny(), members=(_member("a.b"), _member("A_b")))


def test_a_members_folder() -> None:
    assert member_stage("ResNet9.w16") == "member-resnet9_w16"


@pytest.mark.parametrize("name", ["", "../up", "a/b", "ä"])
def test_names_that_can_not_stand_in_a_zoo(name: str) -> None:
    with pytest.raises(ValueError, match="member name: got"):
        _member(name)
    with pytest.raises(ValueError, match="task name: got"):
        replace(tiny(), task=name)


def test_selecting_needs_a_selection() -> None:
    with pytest.raises(ValueError, match="should_select: got true; must be false where selection is null"):
        replace(tiny(), selection=None)


def test_searching_needs_a_search_and_images_to_judge_on() -> None:
    with pytest.raises(ValueError, match="should_search: got true; must be false where policy_search is null"):
        replace(tiny(), policy_search=None)
    with pytest.raises(ValueError, match=r"splits.policy_validation: got 0; must be above 0 where a policy is"):
        replace(tiny(), splits=replace(tiny().splits, policy_validation=0))


def test_threads_and_validation() -> None:
    with pytest.raises(ValueError, match="threads: got 0; must be at least 1"):
        replace(tiny(), threads=0)
    with pytest.raises(ValueError, match="validate_every: got 0; must be at least 1"):
        replace(tiny(), validate_every=0)

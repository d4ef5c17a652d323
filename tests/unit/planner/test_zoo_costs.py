"""Seconds from profiles: at which batch size, of whom, and what may not be compared."""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from planned_zoo import CLASSES, NAMES, draw_rows, write_member, write_zoo

from cascade_serve.core.cost import Cost
from cascade_serve.errors import ConfigError
from cascade_serve.planner.demands import Demands
from cascade_serve.planner.zoo_costs import known_seconds, read_seconds
from cascade_serve.planner.zoo_rows import plan_member, read_zoo_members, shared_engine
from model_zoo.card import TaskCard

TASK = TaskCard(height=4, width=4, channels=3, classes=CLASSES)
PROFILES: Mapping[str, Mapping[int, float]] = {
    "small": {1: 0.004, 8: 0.001},
    "middle": {1: 0.005, 8: 0.006},
    "large": {1: 0.009, 8: 0.008},
}


def zoo(tmp_path: Path, *without: str) -> Path:
    """A zoo whose members have profiles, but for some."""
    profiles = {name: profile for name, profile in PROFILES.items() if name not in without}
    return write_zoo(tmp_path / "my zoo" / "animals", draw_rows(1, 40), seconds=profiles)


@pytest.mark.parametrize(
    ("size", "seconds"), [(None, (0.001, 0.005, 0.008)), (1, (0.004, 0.005, 0.009)), (8, (0.001, 0.006, 0.008))]
)
def test_seconds_are_those_of_the_batch_size_or_of_each_ones_best(
    tmp_path: Path, size: int | None, seconds: tuple[float, ...]
) -> None:
    members = read_zoo_members(zoo(tmp_path), NAMES)
    assert read_seconds(members, Demands(cost=Cost.SECONDS, cost_batch_size=size)) == seconds


def test_members_without_a_profile_are_named_with_what_to_type(tmp_path: Path) -> None:
    task_path = zoo(tmp_path, "small", "large")
    message = (
        "--cost seconds: got no profile of 'small', 'large';"
        f" measure with: cascade-serve zoo profile '{task_path}' small large"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        read_seconds(read_zoo_members(task_path, NAMES), Demands(cost=Cost.SECONDS))


def test_a_batch_size_that_was_not_measured_is_named(tmp_path: Path) -> None:
    demands = Demands(cost=Cost.SECONDS, cost_batch_size=4)
    message = r"^--cost-batch-size: got 4; must be among 1, 8, at which 'small' was profiled, .* --batch-sizes 4$"
    with pytest.raises(ConfigError, match=message):
        read_seconds(read_zoo_members(zoo(tmp_path), NAMES), demands)


def test_profiles_of_different_machines_are_not_compared(tmp_path: Path) -> None:
    task_path = zoo(tmp_path)
    write_member(task_path, "large", 6_000_000, TASK, None, seconds=PROFILES["large"], profiled_on="another machine")
    members = read_zoo_members(task_path, NAMES)
    message = "profile of 'large' from another machine; must be from one machine, as that of 'small'; measure all with"
    with pytest.raises(ConfigError, match=message):
        read_seconds(members, Demands(cost=Cost.SECONDS))
    assert all(math.isnan(seconds) for seconds in read_seconds(members, Demands()))


@pytest.mark.parametrize("cuda", ["small", "large"])
def test_profiles_of_a_cpu_and_of_a_gpu_are_not_compared_even_under_one_name(tmp_path: Path, cuda: str) -> None:
    task_path = zoo(tmp_path)
    profile = PROFILES[cuda]
    write_member(task_path, cuda, 6_000_000, TASK, None, seconds=profile, profiled_device="cuda")
    members = read_zoo_members(task_path, NAMES)
    message = "; must be from one machine (cuda), .* --device cuda$" if cuda == "small" else "from one machine (cuda);"
    with pytest.raises(ConfigError, match=message.replace("(", "[(]").replace(")", "[)]")):
        read_seconds(members, Demands(cost=Cost.SECONDS))
    assert all(math.isnan(seconds) for seconds in known_seconds(members))


def test_what_to_type_names_the_device_of_the_profiles_that_are_there(tmp_path: Path) -> None:
    task_path = zoo(tmp_path, *NAMES)
    write_member(task_path, "middle", 2_500_000, TASK, None, seconds=PROFILES["middle"], profiled_device="cuda")
    with pytest.raises(ConfigError, match=r"no profile of 'small', 'large'; .* small large --device cuda$"):
        read_seconds(read_zoo_members(task_path, NAMES), Demands(cost=Cost.SECONDS))


def test_a_plan_says_on_what_kind_of_device_its_members_were_profiled(tmp_path: Path) -> None:
    task_path = zoo(tmp_path, "small")
    write_member(task_path, "large", 6_000_000, TASK, None, seconds=PROFILES["large"], profiled_device="cuda")
    write_member(task_path, "small", 1_000_000, TASK, None, profiled_device="cuda")
    members = [plan_member(member, 1.0) for member in read_zoo_members(task_path, NAMES)]
    assert [member.profiled_device for member in members] == [None, None, "cuda"]


def test_in_flops_seconds_are_told_as_far_as_they_are_known(tmp_path: Path) -> None:
    members = read_zoo_members(zoo(tmp_path, "middle"), NAMES)
    for small_s, middle_s, large_s in (known_seconds(members), read_seconds(members, Demands())):
        assert (small_s, large_s) == (0.001, 0.008)
        assert math.isnan(middle_s)
    assert [plan_member(member, 1.0).seconds for member in members] == [PROFILES["small"], None, PROFILES["large"]]


@pytest.mark.parametrize(("cost", "size"), [(Cost.FLOPS, 1), (Cost.SECONDS, 0)])
def test_a_batch_size_goes_with_seconds(cost: Cost, size: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"^cost_batch_size: got {size} with cost '{cost.value}'; must be at least 1"
    ):
        Demands(cost=cost, cost_batch_size=size)


def test_members_of_two_engines_make_no_plan(tmp_path: Path) -> None:
    task_path = zoo(tmp_path)
    assert shared_engine(read_zoo_members(task_path, None)) == "onnxruntime"
    write_member(task_path, "middle", 2_500_000, TASK, None, engine="openvino")
    message = "member 'middle': engine: got 'openvino'; must be 'onnxruntime', that of 'small'"
    with pytest.raises(ConfigError, match=message):
        read_zoo_members(task_path, None)
    assert shared_engine(read_zoo_members(task_path, ["middle"])) == "openvino"

"""A plan that contradicts itself is refused, in words that say where."""

import re
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, replace

import pytest

from cascade_serve.core.plan import Fingerprint, Member, Plan, Policy, Stage, Task
from cascade_serve.errors import NotFoundError, PlanError


@pytest.mark.parametrize(("height", "width", "channels"), [(0, 8, 1), (8, -1, 3), (8, 8, 2), (8, 8, 0), (8, 8, 4)])
def test_image_size(height: int, width: int, channels: int) -> None:
    message = f"image size: got {height}x{width}x{channels}; must be at least 1x1 with 1 (grey) or 3 (RGB) channels"
    with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
        Task(height=height, width=width, channels=channels, classes=("a",))


def test_a_task_needs_a_class() -> None:
    with pytest.raises(PlanError, match=r"^classes: got none; must be at least one$"):
        Task(height=1, width=1, channels=1, classes=())


def test_image_shape() -> None:
    assert Task(height=8, width=6, channels=3, classes=("a",)).image_shape == (8, 6, 3)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\\b", "a\0b"])
def test_a_members_name_must_be_a_folders(name: str) -> None:
    message = f"member name: got {name!r}; must be a folder's name, without / and \\"
    with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
        Member(name=name, flops=1, files={})


def test_a_members_name_may_be_in_any_script() -> None:
    assert Member(name="größe-小 v1.0", flops=1, files={}).name == "größe-小 v1.0"


@pytest.mark.parametrize("flops", [0, -5])
def test_a_members_flops_are_above_zero(flops: int) -> None:
    with pytest.raises(PlanError, match=f"^member 'm', flops: got {flops}; must be at least 1$"):
        Member(name="m", flops=flops, files={})


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf"), 9.9e-8])
def test_no_usable_logit_overflows_by_a_members_temperature(temperature: float) -> None:
    message = f"member 'm', temperature: got {temperature}; must be finite and at least 1e-07"
    with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
        Member(name="m", flops=1, temperature=temperature, files={})


@pytest.mark.parametrize(
    ("size", "seconds"), [(0, 0.1), (-1, 0.1), (4, 0.0), (4, -0.1), (4, float("nan")), (4, float("inf"))]
)
def test_a_profile_is_above_zero(size: int, seconds: float) -> None:
    message = (
        f"member 'm', seconds: got {seconds} at batch size {size};"
        " must be finite and above 0, at a batch size of at least 1"
    )
    with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
        Member(name="m", flops=1, seconds={1: 0.1, size: seconds}, files={})


def test_a_policy_needs_a_stage() -> None:
    with pytest.raises(PlanError, match=r"^policy 'p': got no stages; must be at least one$"):
        Policy(name="p", stages=(), worst_case_flops=0)


@pytest.mark.parametrize("threshold", [None, -0.1, 1.1, float("nan"), float("inf")])
def test_thresholds_before_the_last(threshold: float | None) -> None:
    stages = (Stage(member="a", threshold=0.5), Stage(member="b", threshold=threshold), Stage(member="c"))
    message = f"policy 'p', stage 1, threshold: got {threshold}; must be between 0 and 1"
    with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
        Policy(name="p", stages=stages, worst_case_flops=3)


def test_the_last_stage_has_no_threshold() -> None:
    message = "policy 'p': the last stage always answers, so its threshold must be null"
    with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
        Policy(name="p", stages=(Stage(member="a", threshold=0.5),), worst_case_flops=1)


@pytest.mark.parametrize("version", [0, 2, -1])
def test_another_schema(make_plan: Callable[..., Plan], version: int) -> None:
    with pytest.raises(PlanError, match=f"^schema_version: got {version}; must be 1$"):
        make_plan(schema_version=version)


def test_no_members(make_plan: Callable[..., Plan]) -> None:
    with pytest.raises(PlanError, match=r"^members: got \[\]; must be at least one, each once$"):
        make_plan(members=())


def test_a_member_twice(make_plan: Callable[..., Plan], plan: Plan) -> None:
    members = (*plan.members, replace(plan.members[0], flops=7))
    message = "members: got ['small', 'medium', 'large', 'small']; must be at least one, each once"
    with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
        make_plan(members=members)


def _policies(plan: Plan, **more: Policy) -> Mapping[str, Policy]:
    return {**plan.policies, **more}


def test_no_default_policy(make_plan: Callable[..., Plan], plan: Plan) -> None:
    with pytest.raises(PlanError, match=r"^policies: got \['fast'\]; must hold 'default'$"):
        make_plan(policies={"fast": plan.policies["fast"]})


def test_a_policy_under_anothers_name(make_plan: Callable[..., Plan], plan: Plan) -> None:
    with pytest.raises(PlanError, match=r"^policy 'other': its name inside is 'fast'$"):
        make_plan(policies=_policies(plan, other=plan.policies["fast"]))


def test_a_stage_of_an_unknown_member(make_plan: Callable[..., Plan], plan: Plan) -> None:
    policy = Policy(name="p", stages=(Stage(member="huge"),), worst_case_flops=1)
    message = "policy 'p': member 'huge' is not one of ['large', 'medium', 'small']"
    with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
        make_plan(policies=_policies(plan, p=policy))


def test_a_member_twice_in_a_policy(make_plan: Callable[..., Plan], plan: Plan) -> None:
    stages = (Stage(member="small", threshold=0.5), Stage(member="small"))
    policy = Policy(name="p", stages=stages, worst_case_flops=20)
    message = "policy 'p': got stages ['small', 'small']; each member may stand once"
    with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
        make_plan(policies=_policies(plan, p=policy))


@pytest.mark.parametrize("worst", [0, 9, 11])
def test_worst_case_is_the_sum_of_the_stages(make_plan: Callable[..., Plan], plan: Plan, worst: int) -> None:
    policy = replace(plan.policies["fast"], worst_case_flops=worst)
    message = f"policy 'fast', worst_case_flops: got {worst}; its stages sum to 10"
    with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
        make_plan(policies=_policies(plan, fast=policy))


def test_look_ups(plan: Plan) -> None:
    assert plan.member_index == {"small": 0, "medium": 1, "large": 2}
    assert plan.policy("fast") is plan.policies["fast"]
    with pytest.raises(NotFoundError, match=r"^policy '' not found; known: backwards, default, fast$"):
        plan.policy("")


def test_a_plan_is_frozen(plan: Plan) -> None:
    with pytest.raises(FrozenInstanceError):
        plan.reference = "small"  # type: ignore[misc]


def test_a_fingerprint_names_each_precision_once_in_order() -> None:
    kinds = enumerate(("int8", "fp32", "int8", "bf16"))
    members = [Member(name=f"m{index}", flops=1, precision=precision, files={}) for index, precision in kinds]
    assert Fingerprint.of("openvino", members) == Fingerprint(engine="openvino", precision="bf16+fp32+int8")

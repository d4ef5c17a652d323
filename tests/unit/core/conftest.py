"""Plans of the core tests: three members, and a maker that takes what a test wants to be different."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from cascade_serve.core.combine import Combine
from cascade_serve.core.confidence import Confidence
from cascade_serve.core.plan import Certificate, Member, Plan, Policy, Promise, Stage, Task


def _certificate() -> Certificate:
    return Certificate(
        promise=Promise.MAX_REGRET,
        bound=0.005,
        level=0.95,
        lower_bound=-0.004,
        n=1000,
        reference="large",
        data_sha256="ab" * 32,
    )


def _plan() -> Plan:
    stages = (Stage(member="small", threshold=0.9), Stage(member="medium", threshold=0.8), Stage(member="large"))
    default = Policy(name="default", stages=stages, worst_case_flops=1110, certificate=_certificate())
    fast = Policy(name="fast", stages=(Stage(member="small"),), worst_case_flops=10)
    backwards = Policy(
        name="backwards", stages=(Stage(member="large", threshold=0.5), Stage(member="small")), worst_case_flops=1010
    )
    return Plan(
        task=Task(height=8, width=6, channels=1, classes=("no", "yes", "vielleicht")),
        members=(
            Member(name="small", flops=10, files={}),
            Member(name="medium", flops=100, temperature=1.5, files={}),
            Member(name="large", flops=1000, files={}),
        ),
        combine=Combine.MEAN_PROBS,
        confidence=Confidence.MAX_PROB,
        policies={"default": default, "fast": fast, "backwards": backwards},
        reference="large",
    )


@pytest.fixture
def plan() -> Plan:
    return _plan()


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    def make(**changes: object) -> Plan:
        return replace(_plan(), **changes)  # type: ignore[arg-type]

    return make

"""The ranges of a caller's terms, and the exact words of their refusal."""

import re

import pytest

from cascade_serve.core.request import ExitReason, Mode, OnDeadline, Terms
from cascade_serve.errors import InvalidRequestError


def test_defaults() -> None:
    terms = Terms()
    assert terms.policy == "default"
    assert terms.mode is Mode.CASCADE
    assert terms.thresholds is None
    assert terms.max_flops is None
    assert terms.on_deadline is OnDeadline.FAIL
    assert terms.priority == 0


@pytest.mark.parametrize(
    ("given", "thresholds"),
    [(0.5, (0.5,)), (0.0, (0.0,)), (1.0, (1.0,)), (1, (1,)), ((0.1, 0.9), (0.1, 0.9)), ((), ())],
)
def test_thresholds_become_a_tuple(given: float | tuple[float, ...], thresholds: tuple[float, ...]) -> None:
    assert Terms(confidence_threshold=given).thresholds == thresholds


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (-0.01, "-0.01"),
        (1.01, "1.01"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        ((0.5, 2.0), "2.0"),
        ((0.5, float("nan")), "nan"),
    ],
)
def test_thresholds_out_of_range(given: float | tuple[float, ...], shown: str) -> None:
    message = re.escape(f"confidence_threshold: got {shown}; must be between 0 and 1")
    with pytest.raises(InvalidRequestError, match=f"^{message}$"):
        Terms(confidence_threshold=given)


@pytest.mark.parametrize("cap", [0, -1])
def test_cap_out_of_range(cap: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"^max_flops: got {cap}; must be at least 1$"):
        Terms(max_flops=cap)


def test_smallest_cap_and_largest_priority_are_taken() -> None:
    assert Terms(max_flops=1).max_flops == 1
    assert Terms(priority=2**32 - 1).priority == 2**32 - 1


@pytest.mark.parametrize("priority", [-1, 2**32])
def test_priority_out_of_range(priority: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"^priority: got {priority}; must be between 0 and 4294967295$"):
        Terms(priority=priority)


def test_the_error_names_its_field() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Terms(max_flops=0)
    assert caught.value.field == "max_flops"


def test_exit_reasons_keep_their_numbers() -> None:
    assert [(reason.name, reason.value) for reason in ExitReason] == [
        ("CONFIDENT", 0),
        ("LAST_STAGE", 1),
        ("FLOP_CAP", 2),
        ("DEADLINE", 3),
    ]

"""Optimisers: what decays, and the one cycle of the learning rate."""

import pytest
import torch
from torch import nn

from training.optim import OptimConfig, OptimizerName, cycle_factor, make_optimizer


def _rates(config: OptimConfig, steps: int) -> list[float]:
    optimizer, schedule = make_optimizer(nn.Linear(2, 2).parameters(), config, steps)
    rates = []
    for _ in range(steps):
        rates.append(float(schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("name", list(OptimizerName))
def test_learning_rate_goes_up_to_its_peak_and_down_to_nothing(name: OptimizerName) -> None:
    rates = _rates(OptimConfig(name=name, peak_lr=0.4, warmup_share=0.25), 100)
    top = rates.index(max(rates))
    assert rates[top] == pytest.approx(0.4, rel=0.02)
    assert top == pytest.approx(25, abs=1)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(0.4 * 0.005 / 0.75)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_runs_have_a_rate_too(steps: int) -> None:
    rates = _rates(OptimConfig(), steps)
    assert len(rates) == steps
    assert all(0 < rate <= 0.2 for rate in rates)


def test_nothing_is_left_after_the_plan() -> None:
    assert cycle_factor(99, 100, 0.25) > 0
    assert cycle_factor(100, 100, 0.25) == 0
    assert cycle_factor(1000, 100, 0.25) == 0


@pytest.mark.parametrize(
    ("name", "kind"), [(OptimizerName.SGD, torch.optim.SGD), (OptimizerName.ADAMW, torch.optim.AdamW)]
)
def test_biases_norms_and_frozen_parameters(name: OptimizerName, kind: type) -> None:
    head = nn.Linear(2, 2)
    head.weight = nn.Parameter(head.weight.detach(), requires_grad=False)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), head)
    optimizer, _ = make_optimizer(model.parameters(), OptimConfig(name=name, weight_decay=0.01), 10)
    assert isinstance(optimizer, kind)
    shapes = {
        group["weight_decay"]: [tuple(item.shape) for item in group["params"]] for group in optimizer.param_groups
    }
    assert shapes == {0.01: [(2, 1, 3, 3)], 0.0: [(2,), (2,), (2,), (2,)]}


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("peak_lr", 0.0, "must be above 0 and finite"),
        ("peak_lr", float("nan"), "must be above 0 and finite"),
        ("warmup_share", 0.0, "must be between 0 and 1, both excluded"),
        ("warmup_share", 1.0, "must be between 0 and 1, both excluded"),
        ("momentum", 1.0, "must be between 0 and 1, both excluded"),
        ("weight_decay", -1e-9, "must be at least 0 and finite"),
    ],
)
def test_ranges(field: str, value: float, limit: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: got {value}; {limit}$"):
        OptimConfig(**{field: value})  # type: ignore[arg-type]

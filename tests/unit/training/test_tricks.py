"""Rates and decay of the fast-training programs, group by group, against the programs' own numbers."""

import pytest

from model_zoo.registry import build_model
from training.lr import lr_at
from training.optim import make_optimizer, schedule_lr
from training.tricks import Recipe, airbench_muon, airbench_sgd, page_sgd


def _groups(recipe: Recipe, position: float) -> dict[str, tuple[float, float]]:
    """Give each group's rate and its product with decay, of an airbench network."""
    optim, lr = recipe
    optimizer = make_optimizer(build_model("airbench94", classes=10, arguments={"widths": [4, 4, 4]}).module, optim)
    schedule_lr(optimizer, lr, position)
    return {group["name"]: (group["lr"], group["lr"] * group["weight_decay"]) for group in optimizer.param_groups}


def test_pages_rates() -> None:
    optim, lr = page_sgd(epochs=10)
    assert [lr_at(lr, epoch / 10) for epoch in (0, 1, 2, 5, 8, 9, 10)] == pytest.approx(
        [0, 0.5, 1, 0.55, 0.1, 0.1, 0.1]
    )
    # Of biases: 64 times the rate, a 64th of the decay.
    groups = _groups((optim, lr), 0.2)
    assert groups["filters"] == pytest.approx((1.0, 5e-4))
    assert groups["norm biases"] == pytest.approx((64.0, 5e-4))
    _, falling = page_sgd(epochs=17, flat_epochs=0, peak_lr=0.6)
    assert [lr_at(falling, epoch / 17) for epoch in (0, 3.4, 17)] == pytest.approx([0, 0.6, 0])


def test_airbench94s_rates() -> None:
    groups = _groups(airbench_sgd(), 0.23)
    # The program: lr = 11.5 / (1024 (1 + 1 / 0.15)) of summed losses, decay = 0.0153 x 1024 / (the same).
    scale = 1024 * (1 + 1 / (1 - 0.85))
    peak_lr, decay = 11.5 / scale * 1024, 0.0153 * 1024 / scale
    assert groups["filters"] == pytest.approx((peak_lr, decay))
    assert groups["norm biases"] == pytest.approx((64 * peak_lr, decay))
    assert _groups(airbench_sgd(), 0.0)["filters"][0] == pytest.approx(0.2 * peak_lr)
    assert _groups(airbench_sgd(), 1.0)["head"][0] == pytest.approx(0.07 * peak_lr)
    assert _groups(airbench_sgd(), 3 / 9.9)["whitening bias"] == (0, 0)


def test_airbench94_muons_rates() -> None:
    groups = _groups(airbench_muon(), 0.0)
    # Summed losses over 2,000 images: rates 2,000 times as large for their mean; decay 2e-6 x 2000.
    assert groups["filters"] == pytest.approx((0.24, 0.0))
    assert groups["norm biases"] == pytest.approx((0.053 * 2000, 0.004))
    assert groups["whitening bias"] == pytest.approx((0.053 * 2000, 0.004))
    assert groups["head"] == pytest.approx((0.67 * 2000, 0.004))
    later = _groups(airbench_muon(), 1.5 / 8)
    assert later["filters"][0] == pytest.approx(0.24 * (1 - 1.5 / 8))
    assert later["whitening bias"][0] == pytest.approx(0.053 * 2000 * (1 - 1.5 / 3))

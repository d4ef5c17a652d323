"""One step by hand: weighted losses, clipping, averages, frozen parameters, precisions and memory formats."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_runs import small_model
from torch import Tensor, nn

from training.loop_config import LoopConfig, Precision
from training.lr import Constant
from training.optim import OptimConfig
from training.proxy_filter import ProxyFilterConfig
from training.steps import Batch, Stepper

CPU = torch.device("cpu")
PLAIN = LoopConfig(lr=Constant(lr=0.5), optim=OptimConfig(nesterov=False, weight_decay=0.0))


class Linear(nn.Module):
    """Two classes from one number; logits are (w x, 0)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0]]))
        self.frozen = nn.Parameter(torch.tensor([[7.0]]), requires_grad=False)

    def forward(self, inputs_BCHW: Tensor) -> Tensor:
        scores_B1 = inputs_BCHW.flatten(1) @ self.weight
        return torch.cat([scores_B1, torch.zeros_like(scores_B1)], dim=1)


def make_batch(values: list[float], labels: list[int], weights: list[float] | None = None) -> Batch:
    rows = torch.arange(len(values))
    return Batch(
        rows_B=rows,
        inputs_BCHW=torch.tensor(values).reshape(-1, 1, 1, 1),
        labels_B=torch.tensor(labels),
        ids_B=rows + 100,
        weights_B=None if weights is None else torch.tensor(weights),
    )


def gradient(values: list[float], labels: list[int], weights: list[float]) -> float:
    """Give the mean over rows of weight x (sigmoid(w x) - is_first) x, at w = 1."""
    terms = [
        weight * (float(torch.sigmoid(torch.tensor(value))) - (label == 0)) * value
        for value, label, weight in zip(values, labels, weights, strict=True)
    ]
    return sum(terms) / len(terms)


def test_a_step_by_hand() -> None:
    model = Linear()
    outcome = Stepper(model, PLAIN, CPU)(make_batch([2.0, -1.0], [0, 0]), 0.5)
    # -log sigmoid(2) and -log sigmoid(-1).
    assert outcome.losses_B.tolist() == pytest.approx([0.126928, 1.313262], rel=1e-5)
    assert outcome.correct_B.tolist() == [True, False]
    assert not outcome.losses_B.requires_grad
    assert model.weight.item() == pytest.approx(1 - 0.5 * gradient([2.0, -1.0], [0, 0], [1, 1]))
    assert model.frozen.item() == 7


def test_weights_multiply_the_losses_but_not_what_is_told() -> None:
    model = Linear()
    outcome = Stepper(model, PLAIN, CPU)(make_batch([2.0, -1.0], [0, 0], [2.0, 0.0]), 0.5)
    assert outcome.losses_B.tolist() == pytest.approx([0.126928, 1.313262], rel=1e-5)
    assert model.weight.item() == pytest.approx(1 - 0.5 * gradient([2.0, -1.0], [0, 0], [2, 0]))


def test_label_smoothing_by_hand() -> None:
    outcome = Stepper(Linear(), replace(PLAIN, label_smoothing=0.2), CPU)(make_batch([2.0], [0]), 0.5)
    # 0.9 of -log p and 0.1 of -log(1 - p), p = sigmoid(2).
    assert outcome.losses_B.tolist() == pytest.approx([0.9 * 0.126928 + 0.1 * 2.126928], rel=1e-5)


def test_large_gradients_are_clipped_and_small_ones_are_not() -> None:
    found = abs(gradient([-9.0], [0], [1.0]))
    assert found > 8
    for limit, expected in ((0.25, 0.25), (100.0, found)):
        model = Linear()
        Stepper(model, replace(PLAIN, gradient_clip=limit), CPU)(make_batch([-9.0], [0]), 0.5)
        assert abs(model.weight.item() - 1) == pytest.approx(0.5 * expected, rel=1e-4)


def test_gradients_do_not_pile_up() -> None:
    model = Linear()
    # So small a rate leaves the weight at 1 in the first four digits, and momentum has no say in the gradient.
    stepper = Stepper(model, replace(PLAIN, lr=Constant(lr=1e-6)), CPU)
    for _ in range(3):
        stepper(make_batch([2.0], [0]), 0.5)
    assert model.weight.grad is not None
    assert model.weight.grad.item() == pytest.approx(gradient([2.0], [0], [1.0]), rel=1e-4)


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP16])
def test_half_precision_comes_close_and_keeps_float32_weights(precision: Precision) -> None:
    batch = Batch(
        rows_B=torch.arange(32),
        inputs_BCHW=torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
        labels_B=torch.arange(32) % 10,
        ids_B=torch.arange(32),
    )
    full, half = small_model().eval(), small_model().eval()
    expected = Stepper(full, PLAIN, CPU)(batch, 0.5)
    found = Stepper(half, replace(PLAIN, precision=precision), CPU)(batch, 0.5)
    assert found.losses_B.dtype == torch.float32
    torch.testing.assert_close(found.losses_B, expected.losses_B, rtol=0.05, atol=0.05)
    assert not torch.equal(found.losses_B, expected.losses_B)
    for name, tensor in half.state_dict().items():
        assert tensor.dtype == full.state_dict()[name].dtype
        torch.testing.assert_close(tensor, full.state_dict()[name], rtol=0.1, atol=0.05)


def test_float16_scales_its_losses_and_forgets_steps_that_overflow() -> None:
    model = Linear()
    stepper = Stepper(model, replace(PLAIN, precision=Precision.FP16), CPU)
    scale = stepper.state_dict()["scaler"]["scale"]
    assert scale > 1000
    # The gradient of the loss times the scale is beyond float16's largest number.
    stepper(make_batch([-60.0], [0]), 0.5)
    assert model.weight.item() == 1
    assert stepper.state_dict()["scaler"]["scale"] == scale / 2
    other = Stepper(Linear(), replace(PLAIN, precision=Precision.FP16), CPU)
    other.load_state_dict(stepper.state_dict())
    assert other.state_dict()["scaler"]["scale"] == scale / 2


def test_channels_last_reaches_the_filters() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    Stepper(model, replace(PLAIN, channels_last=True), CPU)
    weight = model[0].weight
    assert isinstance(weight, Tensor)
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_compiling_is_a_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []

    def compile_(model: nn.Module, *, dynamic: bool) -> Any:
        assert not dynamic
        compiled.append(model)
        return lambda inputs_BCHW: model(inputs_BCHW) * 2

    monkeypatch.setattr(torch, "compile", compile_)
    model = Linear()
    plain = Stepper(model, PLAIN, CPU)(make_batch([1.0], [0]), 0.5)
    assert not compiled
    model = Linear()
    stepper = Stepper(model, replace(PLAIN, compile=True, batch_size=1), CPU)
    doubled = stepper(make_batch([1.0], [0]), 0.5)
    assert compiled == [model]
    assert not torch.equal(plain.losses_B, doubled.losses_B)


def test_only_full_batches_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: lambda inputs_BCHW: model(inputs_BCHW) * 2)
    proxy = ProxyFilterConfig(keep_share=0.5)
    for config, full in (
        (replace(PLAIN, compile=True, batch_size=2), 2),
        (replace(PLAIN, compile=True, batch_size=4, proxy_filter=proxy), 2),
    ):
        for rows in (1, 2, 4):
            found = Stepper(Linear(), config, CPU)(make_batch([1.0] * rows, [0] * rows), 0.5)
            expected = Stepper(Linear(), PLAIN, CPU)(make_batch([1.0] * rows, [0] * rows), 0.5)
            assert torch.equal(found.losses_B, expected.losses_B) == (rows != full)


def test_averages_follow_the_steps() -> None:
    model = Linear()
    stepper = Stepper(model, replace(PLAIN, ema_decay=0.5, ema_every=2), CPU)
    weights = []
    for _ in range(4):
        stepper(make_batch([2.0, -1.0], [0, 0]), 0.5)
        weights.append(model.weight.item())
    # Taken at steps 2 and 4, with a decay of 0.5 ** 2 and shares that sum to 1.
    average = stepper.averaged_model()
    assert isinstance(average, Linear)
    assert average.weight.item() == pytest.approx((0.25 * weights[1] + weights[3]) / 1.25)


def test_a_batchs_rows_may_be_taken() -> None:
    batch = make_batch([1.0, 2.0, 3.0], [0, 1, 0], [1.0, 2.0, 3.0]).take(torch.tensor([2, 0]))
    assert batch.rows_B.tolist() == [2, 0]
    assert batch.ids_B.tolist() == [102, 100]
    assert batch.inputs_BCHW.flatten().tolist() == [3, 1]
    assert batch.weights_B is not None
    assert batch.weights_B.tolist() == [3, 1]
    assert make_batch([1.0], [0]).take(torch.tensor([0])).weights_B is None

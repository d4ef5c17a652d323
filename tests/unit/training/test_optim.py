"""Optimisers: roles of parameters, what decays, rates of groups, steps by hand, and resuming to the bit."""

import copy
from collections.abc import Mapping

import pytest
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from model_zoo.registry import build_model
from training.joint_optimizer import JointOptimizer
from training.lr import OneCycle
from training.optim import OptimConfig, OptimizerName, make_optimizer, schedule_lr, set_lr


def _airbench(arguments: Mapping[str, JsonValue] | None = None) -> nn.Module:
    return build_model("airbench94", classes=3, arguments={"widths": [4, 4, 4], **(arguments or {})}).module


def _names(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[tuple[str, bool], list[str]]:
    """Sort the names of parameters by group and by whether they decay."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        (group["name"], group["weight_decay"] > 0): [names[item] for item in group["params"]]
        for group in optimizer.param_groups
    }


@pytest.mark.parametrize("name", [OptimizerName.SGD, OptimizerName.ADAM, OptimizerName.ADAMW])
def test_biases_and_norms_do_not_decay_and_frozen_parameters_are_left_out(name: OptimizerName) -> None:
    frozen = nn.Linear(2, 2)
    frozen.weight.requires_grad = False
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), frozen, nn.LayerNorm(2), nn.Linear(2, 2))
    assert _names(model, make_optimizer(model, OptimConfig(name=name))) == {
        ("filters", True): ["0.weight"],
        ("others", False): ["0.bias", "1.weight", "2.bias", "3.weight", "4.bias"],
        ("norm biases", False): ["1.bias", "3.bias"],
        ("head", True): ["4.weight"],
    }


def test_all_decays_where_asked_for() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    optimizer = make_optimizer(model, OptimConfig(decay_all=True, weight_decay=0.01))
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.01}


def test_roles_in_an_airbench_network() -> None:
    model = _airbench()
    names = _names(model, make_optimizer(model, OptimConfig(decay_all=True)))
    assert names == {
        ("whitening bias", True): ["whitening.bias"],
        ("filters", True): [f"groups.{group}.conv{conv}.weight" for group in range(3) for conv in (1, 2)],
        ("norm biases", True): [f"groups.{group}.norm{norm}.bias" for group in range(3) for norm in (1, 2)],
        ("head", True): ["head.weight"],
    }


def test_depthwise_filters_and_embeddings_are_not_filters_of_muon() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(4, 4, 3, groups=4, bias=False)
            self.hidden = nn.Linear(4, 4, bias=False)
            self.position = nn.Parameter(torch.zeros(1, 3, 4))
            self.last = nn.Linear(4, 2, bias=False)

    model = Odd()
    names = _names(model, make_optimizer(model, OptimConfig(name=OptimizerName.MUON)))
    assert names == {
        ("filters", False): ["hidden.weight"],
        ("others", True): ["position", "depthwise.weight"],
        ("head", True): ["last.weight"],
    }


def test_rates_times_decay_is_the_same_in_all_groups() -> None:
    config = OptimConfig(
        decay_all=True,
        weight_decay=0.5,
        norm_bias_lr_factor=64,
        head_lr_factor=4,
        whitening_bias_lr_factor=3,
        rest_lr_factor=2,
    )
    optimizer = make_optimizer(_airbench(), config)
    assert {group["lr"] for group in optimizer.param_groups} == {0}
    set_lr(optimizer, 0.1)
    lrs = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert lrs == pytest.approx({"filters": 0.1, "norm biases": 12.8, "head": 0.8, "whitening bias": 0.6})
    assert [group["lr"] * group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([0.05] * 4)


def test_the_whitening_bias_goes_through_the_schedule_in_its_share() -> None:
    config = OptimConfig(whitening_bias_share=0.375, whitening_bias_lr_factor=2, norm_bias_lr_factor=3)
    optimizer = make_optimizer(_airbench(), config)
    falling = OneCycle(peak_lr=1.0, warmup_share=0.0)

    def lrs(position: float) -> dict[str, float]:
        assert schedule_lr(optimizer, falling, position) == pytest.approx(1 - position)
        return {group["name"]: group["lr"] for group in optimizer.param_groups}

    # airbench94_muon: 3 of 8 epochs; after 1.5 epochs half of that bias's schedule is done.
    assert lrs(1.5 / 8) == pytest.approx(
        {"filters": 13 / 16, "norm biases": 39 / 16, "head": 13 / 16, "whitening bias": 2 * 0.5}
    )
    assert lrs(0.375)["whitening bias"] == 0
    assert lrs(0.9)["whitening bias"] == 0


def _weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_two_nesterov_steps_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(2)
    optimizer = make_optimizer(model, OptimConfig(momentum=0.5, weight_decay=0.1))
    set_lr(optimizer, 0.1)
    # Gradient 1 + 0.1 w. First step: g = 1.2, v = 1.2, w = 2 - 0.1 (1.2 + 0.6) = 1.82.
    # Second: g = 1.182, v = 0.6 + 1.182 = 1.782, w = 1.82 - 0.1 (1.182 + 0.891) = 1.6127.
    for expected in (1.82, 1.6127):
        optimizer.zero_grad()
        model(torch.ones(1, 1)).sum().backward()
        optimizer.step()
        assert model.weight.item() == pytest.approx(expected)


def test_a_muon_step_moves_normalised_filters_by_an_orthogonal_matrix() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.Flatten(), nn.Linear(4, 2, bias=False))
    conv = model[0]
    assert isinstance(conv, nn.Conv2d)
    optimizer = make_optimizer(model, OptimConfig(name=OptimizerName.MUON, newton_schulz_steps=10))
    set_lr(optimizer, 0.1)
    generator = torch.Generator().manual_seed(0)
    before_OP = conv.weight.detach().flatten(1).clone()
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    gradient_OP = conv.weight.grad.flatten(1) if conv.weight.grad is not None else torch.empty(0)
    optimizer.step()
    normal_OP = before_OP * 2 / before_OP.norm()
    update_OP = (normal_OP - conv.weight.detach().flatten(1)) / 0.1
    left, _, right = torch.linalg.svd(gradient_OP, full_matrices=False)
    # The iteration brings singular values near 1 only (0.7 to 1.2), in bfloat16.
    values = torch.linalg.svdvals(update_OP)
    assert values.min() > 0.6
    assert values.max() < 1.3
    aligned = nn.functional.cosine_similarity(update_OP.flatten(), (left @ right).flatten(), dim=0)
    assert aligned > 0.97


def test_muons_filters_decay_where_they_are_not_normalised() -> None:
    config = OptimConfig(name=OptimizerName.MUON, normalise_filters=False, weight_decay=0.5)
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    optimizer = make_optimizer(model, config)
    set_lr(optimizer, 0.1)
    before = _weights(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    filters, head = _weights(model)
    torch.testing.assert_close(filters, (1 - 0.1 * 0.5) * before[0])
    # SGD's first Nesterov step goes 1.9 times as far.
    torch.testing.assert_close(head, (1 - 0.1 * 0.5 * 1.9) * before[1])


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    set_lr(optimizer, 0.05)
    images_BCHW = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images_BCHW), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()


@pytest.mark.parametrize("rest", [OptimizerName.SGD, OptimizerName.ADAMW])
@pytest.mark.parametrize("name", list(OptimizerName))
def test_resumed_optimizers_step_the_same_to_the_bit(name: OptimizerName, rest: OptimizerName) -> None:
    config = OptimConfig(name=name, rest=rest, norm_bias_lr_factor=2)
    model = _airbench().train()
    optimizer = make_optimizer(model, config)
    _step(model, optimizer, 0)
    resumed = copy.deepcopy(model)
    resumed_optimizer = make_optimizer(resumed, config)
    resumed_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for seed in (1, 2):
        _step(model, optimizer, seed)
        _step(resumed, resumed_optimizer, seed)
    for one, other in zip(_weights(model), _weights(resumed), strict=True):
        assert torch.equal(one, other)


def test_a_loss_scaler_skips_overflowed_steps_of_both_parts() -> None:
    model = _airbench().train()
    optimizer = make_optimizer(model, OptimConfig(name=OptimizerName.MUON))
    assert isinstance(optimizer, JointOptimizer)
    assert [type(part).__name__ for part in optimizer.parts] == ["Muon", "SGD"]
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    set_lr(optimizer, 0.1)
    before = _weights(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, float("inf"))
    scaler.scale(torch.zeros(1))
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(one, other) for one, other in zip(_weights(model), before, strict=True))
    assert scaler.get_scale() == 2


def test_joint_states_of_other_numbers_of_parts_and_closures_are_refused() -> None:
    optimizer = make_optimizer(_airbench(), OptimConfig(name=OptimizerName.MUON))
    with pytest.raises(ValueError, match="optimizer state: got 1 parts; must be 2"):
        optimizer.load_state_dict({"parts": [{}]})
    with pytest.raises(ValueError, match="closure: got one; a joint optimizer takes none"):
        optimizer.step(lambda: 0.0)


def test_models_with_nothing_to_train_are_refused() -> None:
    model = nn.Linear(1, 1).requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match="model: got no parameter that is trained; must have one"):
        make_optimizer(model, OptimConfig())


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("momentum", 1.0, "must be between 0 and 1, both excluded"),
        ("filter_momentum", 0.0, "must be between 0 and 1, both excluded"),
        ("beta2", 1.0, "must be between 0 and 1, both excluded"),
        ("weight_decay", -1e-9, "must be at least 0 and finite"),
        ("epsilon", 0.0, "must be above 0 and finite"),
        ("norm_bias_lr_factor", 0.0, "must be above 0 and finite"),
        ("rest_lr_factor", float("nan"), "must be above 0 and finite"),
        ("whitening_bias_share", 1.5, "must be above 0 and at most 1"),
        ("newton_schulz_steps", 0, "must be at least 1"),
    ],
)
def test_ranges(field: str, value: float, limit: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: got {value}; {limit}$"):
        OptimConfig(**{field: value})  # type: ignore[arg-type]


def test_muon_can_not_be_its_own_rest() -> None:
    with pytest.raises(ValueError, match="rest: got 'muon'; must be 'sgd' or 'adamw'"):
        OptimConfig(rest=OptimizerName.MUON)

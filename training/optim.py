"""Optimisers: which parameters go to which, how fast each kind learns, and what decays."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, assert_never

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from model_zoo.architectures.whitening_layer import WhiteningConv2d
from training.joint_optimizer import JointOptimizer
from training.lr import LrConfig, lr_at


class OptimizerName(StrEnum):
    """Which optimiser."""

    SGD = "sgd"
    """Stochastic gradient descent with momentum."""
    ADAM = "adam"
    """Adam (Kingma and Ba, arXiv 1412.6980), weight decay in the gradient."""
    ADAMW = "adamw"
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101)."""
    MUON = "muon"
    """Momentum orthogonalised by Newton-Schulz steps, for filters (Jordan et al. 2024); SGD or AdamW for the rest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """An optimiser. Rates come from a schedule (``training.lr``) for batch-mean losses; here are their ratios.

    A group's rate is the schedule's times its factor, and its weight decay is divided by that factor, so that the pull
    towards 0 (rate x decay) is the same in all groups that decay, as in Page's and airbench's programs.

    Attributes:
        name: which optimiser.
        momentum: of SGD; the first beta of Adam and AdamW.
        nesterov: of SGD and Muon.
        beta2, epsilon: of Adam and AdamW.
        weight_decay: of weights with two and more dimensions.
        decay_all: biases and norms decay too, as in Page's and airbench's programs.
        norm_bias_lr_factor: of normalisation layers' biases (64 in both programs).
        head_lr_factor: of the last linear layer's weights.
        whitening_bias_lr_factor: of the bias of a frozen whitening layer.
        whitening_bias_share: that bias is trained in this first share of the run only, with the whole schedule squeezed
            into it (airbench94_muon: 3 of 8 epochs).
        rest_lr_factor: of all but filters, on top of the factors above.
        rest: what trains all but filters beside Muon: SGD or AdamW.
        filter_momentum: of Muon.
        newton_schulz_steps: of Muon.
        normalise_filters: Muon's filters are scaled to norm sqrt(outputs) before each step, and don't decay
            (airbench94_muon); otherwise they decay.
    """

    name: OptimizerName = OptimizerName.SGD
    momentum: float = 0.9
    nesterov: bool = True
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 5e-4
    decay_all: bool = False
    norm_bias_lr_factor: float = 1.0
    head_lr_factor: float = 1.0
    whitening_bias_lr_factor: float = 1.0
    whitening_bias_share: float = 1.0
    rest_lr_factor: float = 1.0
    rest: OptimizerName = OptimizerName.SGD
    filter_momentum: float = 0.6
    newton_schulz_steps: int = 3
    normalise_filters: bool = True

    def __post_init__(self) -> None:
        for name in ("momentum", "beta2", "filter_momentum"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; must be between 0 and 1, both excluded")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay: got {self.weight_decay}; must be at least 0 and finite")
        for name in (
            "epsilon",
            "norm_bias_lr_factor",
            "head_lr_factor",
            "whitening_bias_lr_factor",
            "rest_lr_factor",
        ):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: got {getattr(self, name)}; must be above 0 and finite")
        if not 0 < self.whitening_bias_share <= 1:
            raise ValueError(f"whitening_bias_share: got {self.whitening_bias_share}; must be above 0 and at most 1")
        if self.rest not in (OptimizerName.SGD, OptimizerName.ADAMW):
            raise ValueError(f"rest: got {self.rest.value!r}; must be 'sgd' or 'adamw'")
        if self.newton_schulz_steps < 1:
            raise ValueError(f"newton_schulz_steps: got {self.newton_schulz_steps}; must be at least 1")


class _Role(StrEnum):
    """What a parameter is for."""

    FILTER = "filters"
    HEAD = "head"
    NORM_BIAS = "norm biases"
    WHITENING_BIAS = "whitening bias"
    OTHER = "others"


Group = dict[str, Any]


def make_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """Build the optimiser of a model's trained parameters.

    Args:
        model: frozen parameters are left out.
        config: which optimiser.

    Returns:
        an optimiser whose groups hold ``name``, ``lr_factor`` and ``schedule_share``. Its rates are 0 until
        :func:`set_lr` or :func:`schedule_lr` sets them.

    Raises:
        ValueError: nothing of the model is trained.
    """
    groups = _groups(model, config)
    if not groups:
        raise ValueError("model: got no parameter that is trained; must have one")
    if config.name is not OptimizerName.MUON:
        return _plain(config.name, groups, config)
    filters = [group for group in groups if group["name"] == _Role.FILTER.value]
    rest = [group for group in groups if group["name"] != _Role.FILTER.value]
    parts = [_muon(filters, config)] if filters else []
    return JointOptimizer([*parts, *([_plain(config.rest, rest, config)] if rest else [])])


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set every group's rate to its factor times a base rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)


def schedule_lr(optimizer: Optimizer, config: LrConfig, position: float) -> float:
    """Set every group's rate for a position of the run; groups trained for a share only get 0 past it.

    Args:
        optimizer: of :func:`make_optimizer`.
        config: the schedule.
        position: as for :func:`training.lr.lr_at`.

    Returns:
        the base rate.
    """
    lr = lr_at(config, position)
    for group in optimizer.param_groups:
        share = group.get("schedule_share", 1.0)
        base_lr = lr if share == 1 else lr_at(config, position / share) if position < share else 0.0
        group["lr"] = base_lr * group.get("lr_factor", 1.0)
    return lr


def _groups(model: nn.Module, config: OptimConfig) -> list[Group]:
    """Sort parameters by role and by whether they decay; empty groups are left out."""
    members: dict[tuple[_Role, bool], list[nn.Parameter]] = {}
    roles = _roles(model)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        role = roles.get(parameter, _Role.OTHER)
        decays = config.decay_all or parameter.ndim >= 2
        if role is _Role.FILTER and config.name is OptimizerName.MUON and config.normalise_filters:
            decays = False
        members.setdefault((role, decays), []).append(parameter)
    return [_group(role, decays, parameters, config) for (role, decays), parameters in members.items()]


def _group(role: _Role, decays: bool, parameters: list[nn.Parameter], config: OptimConfig) -> Group:
    factor = _lr_factor(role, config)
    return {
        "params": parameters,
        "lr": 0.0,
        "weight_decay": config.weight_decay / factor if decays else 0.0,
        "name": role.value,
        "lr_factor": factor,
        "schedule_share": config.whitening_bias_share if role is _Role.WHITENING_BIAS else 1.0,
    }


def _lr_factor(role: _Role, config: OptimConfig) -> float:
    match role:
        case _Role.FILTER:
            return 1.0
        case _Role.HEAD:
            return config.rest_lr_factor * config.head_lr_factor
        case _Role.NORM_BIAS:
            return config.rest_lr_factor * config.norm_bias_lr_factor
        case _Role.WHITENING_BIAS:
            return config.rest_lr_factor * config.whitening_bias_lr_factor
        case _Role.OTHER:
            return config.rest_lr_factor
        case _:
            assert_never(role)


def _roles(model: nn.Module) -> dict[Tensor, _Role]:
    """Tell the roles of parameters other than plain ones.

    Filters are the weights of convolutions and linear layers, which are matrices once flattened; a grouped convolution
    is several small ones and no matrix. The head is the linear layer that is registered last.
    """
    roles: dict[Tensor, _Role] = {}
    last_linear: nn.Linear | None = None
    for module in model.modules():
        match module:
            case WhiteningConv2d(bias=nn.Parameter() as bias):
                roles[bias] = _Role.WHITENING_BIAS
            case nn.Linear():
                roles[module.weight] = _Role.FILTER
                last_linear = module
            case nn.Conv2d(groups=1):
                roles[module.weight] = _Role.FILTER
            case nn.BatchNorm1d() | nn.BatchNorm2d() | nn.GroupNorm() | nn.LayerNorm() if isinstance(
                module.bias, nn.Parameter
            ):
                roles[module.bias] = _Role.NORM_BIAS
            case _:
                pass
    if last_linear is not None:
        roles[last_linear.weight] = _Role.HEAD
    return roles


def _plain(name: OptimizerName, groups: list[Group], config: OptimConfig) -> Optimizer:
    betas = (config.momentum, config.beta2)
    match name:
        case OptimizerName.SGD:
            return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum, nesterov=config.nesterov, fused=True)
        case OptimizerName.ADAM:
            return torch.optim.Adam(groups, lr=0.0, betas=betas, eps=config.epsilon, fused=True)
        case OptimizerName.ADAMW:
            return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=config.epsilon, fused=True)
        case OptimizerName.MUON:
            raise AssertionError("Muon trains filters only")
        case _:
            assert_never(name)


def _muon(groups: list[Group], config: OptimConfig) -> Optimizer:
    """Build Muon as airbench94_muon has it: the original coefficients, filters flattened, steps not rescaled."""
    from timm.optim.muon import Muon

    optimizer: Optimizer = Muon(
        [{**group, "use_muon": True} for group in groups],
        lr=0.0,
        momentum=config.filter_momentum,
        nesterov=config.nesterov,
        ns_steps=config.newton_schulz_steps,
        ns_coefficients="original",
        adjust_lr_fn=None,
        conv_mode="flatten",
    )
    if config.normalise_filters:
        optimizer.register_step_pre_hook(_normalise_filters)
    return optimizer


def _normalise_filters(optimizer: Optimizer, args: object, kwargs: object) -> None:
    """Scale each filter bank to Frobenius norm sqrt(outputs), that of an orthogonal one."""
    del args, kwargs
    with torch.no_grad():
        for group in optimizer.param_groups:
            for filters_O in group["params"]:
                filters_O.mul_(len(filters_O) ** 0.5 / filters_O.norm())

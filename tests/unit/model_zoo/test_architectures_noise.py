"""Shake-Shake's and ShakeDrop's noise against their formulas, and the shortcuts of the residual networks."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from model_zoo.architectures.preact_resnet import PreactResNet, _Unit
from model_zoo.architectures.pyramidnet import PyramidNet, ShakeDrop
from model_zoo.architectures.shake import scale_both_ways
from model_zoo.architectures.shake_shake import ShakeShake, _Block, _Shortcut
from model_zoo.architectures.shortcut import padded_shortcut


@pytest.fixture(autouse=True)
def _own_randomness() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        yield


def column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def test_two_scales_are_exact_and_independent() -> None:
    maps_BCHW = torch.randn(2, 3, 4, 4, requires_grad=True)
    scaled_BCHW = scale_both_ways(maps_BCHW, column([2.0, -0.5]), column([0.0, 0.25]))
    assert torch.equal(scaled_BCHW, maps_BCHW * column([2.0, -0.5]))
    (3 * scaled_BCHW).sum().backward()
    assert maps_BCHW.grad is not None
    assert torch.equal(maps_BCHW.grad, column([0.0, 0.75]).expand(2, 3, 4, 4))


def mixed(backward_noise: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Mix two branches of ones and tens; give the mix, both gradients, and the draws of the same seed."""
    block = _Block(4, 4, 1, backward_noise).train()
    first, second = torch.ones(5, 4, 2, 2, requires_grad=True), torch.full((5, 4, 2, 2), 10.0, requires_grad=True)
    state = torch.random.get_rng_state()
    output = block._mix(first, second)
    output.sum().backward()
    torch.random.set_rng_state(state)
    alpha, beta = torch.rand(5, 1, 1, 1), torch.rand(5, 1, 1, 1)
    assert first.grad is not None
    assert second.grad is not None
    return output, first.grad, second.grad, alpha, beta


def test_shake_shake_weighs_each_image_anew_on_both_ways() -> None:
    output, first, second, alpha, beta = mixed("shake")
    assert torch.allclose(output, (alpha + (1 - alpha) * 10).expand_as(output))
    assert torch.equal(first, beta.expand_as(first))
    assert torch.equal(second, (1 - beta).expand_as(second))
    assert len(set(output[:, 0, 0, 0].tolist())) == 5


def test_shake_even_weighs_gradients_by_halves() -> None:
    output, first, second, alpha, _ = mixed("even")
    assert torch.allclose(output, (alpha + (1 - alpha) * 10).expand_as(output))
    assert (first == 0.5).all()
    assert (second == 0.5).all()


def test_shake_shake_takes_halves_in_evaluation() -> None:
    block = _Block(4, 4, 1, "shake").eval()
    assert (block._mix(torch.ones(2, 4, 2, 2), torch.full((2, 4, 2, 2), 10.0)) == 5.5).all()


def test_shake_shakes_second_shortcut_sees_the_pixels_between() -> None:
    shortcut = _Shortcut(1, 2, 2).eval()
    nn.init.ones_(shortcut.straight.weight)
    nn.init.ones_(shortcut.shifted.weight)
    pixels_1144 = torch.arange(1.0, 17).view(1, 1, 4, 4)
    straight_22, shifted_22 = shortcut(pixels_1144)[0]
    scale = 1 / (1 + shortcut.bn.eps) ** 0.5
    assert torch.allclose(straight_22, scale * torch.tensor([[1.0, 3], [9, 11]]))
    assert torch.allclose(shifted_22, scale * torch.tensor([[0.0, 0], [0, 6]]))


def test_shake_shake_joins_the_paths_at_odd_sizes_too() -> None:
    assert ShakeShake(depth=8, width=4, classes=2)(torch.randn(2, 3, 9, 9)).shape == (2, 2)


def disturbed(shakedrop: ShakeDrop, shape: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """Give the factors of the two ways."""
    ones_BCHW = torch.ones(shape, requires_grad=True)
    output_BCHW = shakedrop.train()(ones_BCHW)
    output_BCHW.sum().backward()
    assert ones_BCHW.grad is not None
    return output_BCHW.detach(), ones_BCHW.grad


def test_shakedrop_keeps_or_disturbs_each_image() -> None:
    forward, backward = disturbed(ShakeDrop(0.7), (4000, 2, 2, 2))
    assert (forward == forward[:, :1, :1, :1]).all()
    assert (backward == backward[:, :1, :1, :1]).all()
    forward_B, backward_B = forward[:, 0, 0, 0], backward[:, 0, 0, 0]
    is_kept_B = forward_B == 1
    assert (backward_B[is_kept_B] == 1).all()
    # Five standard errors: sqrt(0.21 / 4000) of a share; 0.58 of alpha and 0.29 of beta over 1,200 draws.
    assert is_kept_B.float().mean() == pytest.approx(0.7, abs=0.037)
    alpha, beta = forward_B[~is_kept_B], backward_B[~is_kept_B]
    assert -1 <= alpha.min() < -0.98
    assert 0.98 < alpha.max() < 1
    assert alpha.mean() == pytest.approx(0, abs=0.085)
    assert 0 <= beta.min() < 0.02
    assert 0.98 < beta.max() < 1
    assert beta.mean() == pytest.approx(0.5, abs=0.043)
    assert abs(torch.corrcoef(torch.stack([alpha, beta]))[0, 1]) < 0.15


def test_shakedrop_gives_its_expectation_in_evaluation() -> None:
    maps_BCHW = torch.randn(2, 3, 4, 4)
    shakedrop = ShakeDrop(0.7)
    forward, _ = disturbed(shakedrop, (4000, 1, 1, 1))
    assert torch.equal(shakedrop.eval()(maps_BCHW), 0.7 * maps_BCHW)
    # Of b + alpha - b alpha: 0.7; its variance is 0.7 + 0.3 / 3 - 0.49.
    assert forward.mean() == pytest.approx(0.7, abs=5 * (0.31 / 4000) ** 0.5)


@pytest.mark.parametrize(("level", "distinct"), [("image", 1), ("channel", 3), ("pixel", 12)])
def test_shakedrop_levels(level: str, distinct: int) -> None:
    forward, backward = disturbed(ShakeDrop(0.0, level), (1, 3, 2, 2))
    assert len(set(forward.flatten().tolist())) == distinct
    assert len(set(backward.flatten().tolist())) == distinct


def test_shakedrop_that_always_survives_is_nothing() -> None:
    maps_BCHW = torch.randn(2, 3, 4, 4)
    state = torch.random.get_rng_state()
    assert ShakeDrop(1.0).train()(maps_BCHW) is maps_BCHW
    assert torch.equal(torch.random.get_rng_state(), state)


def test_survival_falls_linearly_from_block_to_block() -> None:
    network = PyramidNet(depth=14, alpha=6, classes=2, survival=0.5)
    survivals = [part.survival for part in network.modules() if isinstance(part, ShakeDrop)]
    assert survivals == pytest.approx([1 - 0.5 * block / 6 for block in range(1, 7)])


def test_pyramid_grows_by_the_rule_without_losing_fractions() -> None:
    network = PyramidNet(depth=14, alpha=10, classes=2)
    widths = [part.out_channels for part in network.modules() if isinstance(part, nn.Conv2d)]
    # 16 + floor(10 k / 6) for k = 1 to 6, each for two convolutions, behind the stem's 16.
    assert widths == [16, 17, 17, 19, 19, 21, 21, 22, 22, 24, 24, 26, 26]


def test_pyramids_shortcut_averages_and_pads_with_zeros() -> None:
    network = PyramidNet(depth=8, alpha=9, classes=2).eval()
    block = network.blocks[1]
    for layer in block.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.zeros_(layer.weight)
    maps_BCHW = torch.randn(2, 19, 4, 4)
    output_BCHW = block(maps_BCHW)
    assert torch.allclose(output_BCHW[:, :19], functional.avg_pool2d(maps_BCHW, 2))
    assert output_BCHW.shape == (2, 22, 2, 2)
    assert not output_BCHW[:, 19:].any()


def test_padded_shortcut_skips_pixels_and_pads_on_both_sides() -> None:
    maps_BCHW = torch.randn(1, 2, 4, 4)
    assert padded_shortcut(maps_BCHW, stride=1, new_channels=0) is maps_BCHW
    output_BCHW = padded_shortcut(maps_BCHW, stride=2, new_channels=3)
    assert output_BCHW.shape == (1, 5, 2, 2)
    assert torch.equal(output_BCHW[:, 1:3], maps_BCHW[:, :, ::2, ::2])
    assert not output_BCHW[:, [0, 3, 4]].any()


def test_preactivation_leaves_the_shortcut_free() -> None:
    # Without residual branches the once activated stem goes through all units as it is.
    network = PreactResNet(depth=14, classes=3, width=4).eval()
    first = next(network.units.children())
    assert isinstance(first, _Unit)
    for name, layer in network.units.named_modules():
        if isinstance(layer, nn.Conv2d):
            assert "residual" in name
            nn.init.zeros_(layer.weight)
    images_BCHW = torch.randn(2, 3, 8, 8)
    maps_BCHW = functional.relu(first.bn(network.stem(images_BCHW)))
    for channels in (4, 8):
        maps_BCHW = padded_shortcut(maps_BCHW, stride=2, new_channels=channels)
    expected_BK = network.linear(functional.relu(network.bn(maps_BCHW)).mean(dim=(2, 3)))
    assert torch.allclose(network(images_BCHW), expected_BK)


def test_preactivation_bottlenecks_project_where_the_shape_changes() -> None:
    network = PreactResNet(depth=20, classes=3, block="bottleneck", width=4)
    projected = [unit.projection is not None for unit in network.units]
    assert projected == [True, False, True, False, True, False]
    padded = PreactResNet(depth=20, classes=3, block="bottleneck", shortcut="padding", width=4)
    assert padded(torch.randn(2, 3, 8, 8)).shape == (2, 3)
    assert not any(unit.projection for unit in padded.units)

"""The airbench networks: sizes and costs against the published programs, first weights, training and export."""

import pytest
import torch
from pydantic import JsonValue
from torch import nn
from unsettled_norms import unsettle

from model_zoo.architectures.airbench import SIZES, AirbenchNet
from model_zoo.card import TaskCard
from model_zoo.export import export_model
from model_zoo.registry import build_model

TINY: dict[str, JsonValue] = {"widths": [4, 8, 8]}


def _parameters(widths: tuple[int, int, int], depth: int) -> int:
    """Count by hand: whitening with bias, convolutions, scales and offsets of the norms, linear layer."""
    total = 24 * 3 * 4 + 24 + widths[-1] * 10
    for before, after in zip((24, *widths[:2]), widths, strict=True):
        total += 9 * before * after + (depth - 1) * 9 * after**2 + depth * 2 * after
    return total


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("airbench94", 1_972_792),
        ("airbench94_muon", 1_972_792),
        ("airbench95", 4_606_520),
        ("airbench96", 12_721_208),
        ("airbench96_faster", 9_918_776),
        ("airbench96_proxy", 146_744),
    ],
)
def test_parameters(name: str, parameters: int) -> None:
    module = build_model(name, classes=10).module
    assert sum(item.numel() for item in module.parameters()) == parameters
    widths, depth, _ = SIZES[name.removesuffix("_muon")]
    assert _parameters(widths, depth) == parameters


def _macs(name: str) -> int:
    macs = 0

    def count(conv: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal macs
        assert isinstance(conv, nn.Conv2d)
        macs += output[0].numel() * conv.weight[0].numel()

    module = build_model(name, classes=10).module
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(count)
    with torch.inference_mode():
        module(torch.zeros(1, 3, 32, 32))
    return macs + module.get_parameter("head.weight").numel()


@pytest.mark.parametrize(
    ("name", "epochs", "petaflops"),
    # The paper's airbench96 has 40 epochs; the program's later ones have fewer.
    [("airbench94", 9.9, 0.36), ("airbench95", 15, 1.39), ("airbench96", 40, 7.46)],
)
def test_training_costs_what_is_published(name: str, epochs: float, petaflops: float) -> None:
    # Two FLOPs a multiply-add, and a step costs three passes.
    assert 2 * 3 * _macs(name) * epochs * 50_000 / 1e15 == pytest.approx(petaflops, rel=0.03)


def test_training_behind_a_proxy_costs_what_is_published() -> None:
    batches = 45 * (50_000 // 1024)
    target = 3 * _macs("airbench96_faster") * 512
    # The proxy sees all images, and goes back over every fourth batch.
    proxy = (1 + 2 / 4) * _macs("airbench96_proxy") * 1024
    assert 2 * batches * (target + proxy) / 1e15 == pytest.approx(3.1, rel=0.01)


def test_convolutions_start_as_the_identity_of_their_first_channels() -> None:
    module = build_model("airbench94", classes=10, arguments=TINY).module
    weight = module.get_parameter("groups.1.conv2.weight")
    maps_BCHW = torch.randn(1, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(nn.functional.conv2d(maps_BCHW, weight, padding=1), maps_BCHW)
    widening = module.get_parameter("groups.1.conv1.weight")
    assert widening.shape == (8, 4, 3, 3)
    output_BCHW = nn.functional.conv2d(maps_BCHW[:, :4], widening, padding=1)
    torch.testing.assert_close(output_BCHW[:, :4], maps_BCHW[:, :4])
    assert widening[4:].std() > 0


def test_what_is_trained() -> None:
    module = build_model("airbench96", classes=10, arguments=TINY).module
    frozen = {name for name, item in module.named_parameters() if not item.requires_grad}
    assert "whitening.weight" in frozen
    assert frozen - {"whitening.weight"} == {
        f"groups.{group}.norm{norm}.weight" for group in range(3) for norm in (1, 2, 3)
    }
    assert module.get_parameter("whitening.bias").tolist() == [0] * 24


def test_the_head_of_the_muon_recipe_has_unit_weights() -> None:
    built = build_model("airbench94_muon", classes=10, seed=3)
    assert built.module.get_parameter("head.weight").std().item() == pytest.approx(1)
    assert built.arguments["logit_scale"] == 1 / 256


@pytest.mark.parametrize("name", ["airbench94", "airbench96"])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiny_networks_train(name: str, channels: int) -> None:
    module = build_model(name, classes=3, channels=channels, arguments=TINY, seed=1).module.train()
    module = module.to(memory_format=torch.channels_last)
    images_BCHW = torch.randn(8, channels, 32, 32, generator=torch.Generator().manual_seed(0))
    nn.functional.cross_entropy(module(images_BCHW), torch.arange(8) % 3).backward()
    for parameter, item in module.named_parameters():
        assert (item.grad is not None and bool(item.grad.isfinite().all())) == item.requires_grad, parameter


def test_channels_that_are_constant_over_a_batch_leave_gradients_moderate() -> None:
    module = build_model("airbench96", classes=3, arguments=TINY, seed=1).module.train()
    # All images are the same, and the last group sees one pixel: its channels have no variance.
    images_BCHW = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).repeat(8, 1, 1, 1)
    nn.functional.cross_entropy(module(images_BCHW), torch.arange(8) % 3).backward()
    gradients = [item.grad for item in module.parameters() if item.grad is not None]
    assert max(gradient.abs().max().item() for gradient in gradients) < 100


def test_a_tiny_network_exports() -> None:
    bound = TaskCard(height=32, width=32, channels=3, classes=("a", "b", "c"))
    built = build_model("airbench96", classes=3, arguments=TINY)
    unsettle(built.module)
    exported = export_model(built, bound)
    assert exported.agreement.max_logit_difference < 1e-4
    assert exported.cost.params == sum(item.numel() for item in built.module.parameters())


@pytest.mark.parametrize(
    ("widths", "depth", "message"),
    [((4, 8), 2, r"widths: got \[4, 8\]; must be three"), ((4, 8, 8), 4, "depth: got 4; must be 2 or 3")],
)
def test_other_shapes_are_refused(widths: tuple[int, ...], depth: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AirbenchNet(widths=widths, classes=10, depth=depth)


@pytest.mark.parametrize("momentum", [0, 5, float("nan")])
def test_norms_whose_statistics_could_not_settle_are_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match=rf"^norm_momentum: got {momentum}; must be above 0 and at most 1$"):
        AirbenchNet(widths=(4, 8, 8), classes=10, norm_momentum=momentum)

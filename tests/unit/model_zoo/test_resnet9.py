"""ResNet-9: sizes, each trick as a switch, and the way to ONNX."""

from collections.abc import Mapping

import pytest
import torch
from pydantic import JsonValue
from torch import nn
from unsettled_norms import unsettle

from model_zoo.architectures.ghost_norm import GhostBatchNorm2d
from model_zoo.architectures.resnet9 import TRICKS, ResNet9
from model_zoo.card import TaskCard
from model_zoo.export import export_model
from model_zoo.registry import build_model


def _build(arguments: Mapping[str, JsonValue]) -> nn.Module:
    return build_model("resnet9", classes=10, arguments={"width": 4, **arguments}).module


def _types(module: nn.Module) -> list[str]:
    return [type(part).__name__ for part in module.modules() if not list(part.children())]


def test_parameters_of_the_plain_network_by_hand() -> None:
    convolutions = 9 * (3 * 64 + 64 * 128 + 2 * 128**2 + 128 * 256 + 256 * 512 + 2 * 512**2)
    norms = 2 * (64 + 3 * 128 + 256 + 3 * 512)
    module = ResNet9(classes=10)
    assert sum(item.numel() for item in module.parameters()) == convolutions + norms + 512 * 10 == 6_573_120


def test_macs_are_the_sources() -> None:
    macs = 0

    def count(conv: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal macs
        assert isinstance(conv, nn.Conv2d)
        macs += output[0].numel() * conv.in_channels * 9

    module = ResNet9(classes=10).eval()
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(count)
    module(torch.zeros(1, 3, 32, 32))
    assert (macs + 5120) / 1e6 == pytest.approx(379, abs=0.5)


def test_plain_blocks_keep_their_names() -> None:
    names = set(_build({}).state_dict())
    assert {"features.prep.conv.weight", "features.layer1.bn.weight", "linear.weight"} < names


def test_celu_takes_the_place_of_every_relu() -> None:
    types = _types(_build({"celu_alpha": 0.075}))
    assert types.count("CELU") == 8
    assert "ReLU" not in types


def test_pooling_before_norm_changes_nothing_in_evaluation_while_scales_are_positive() -> None:
    early, late = _build({"pool_before_norm": True}), unsettle(_build({}))
    assert _types(early).index("MaxPool2d") < _types(late).index("MaxPool2d")
    early.load_state_dict(late.state_dict())
    images_BCHW = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(early(images_BCHW), late(images_BCHW))


def test_ghost_norms_are_everywhere_and_load_plain_weights() -> None:
    ghosts = _build({"ghost_batch_size": 32})
    assert [part.ghost_batch_size for part in ghosts.modules() if isinstance(part, GhostBatchNorm2d)] == [32] * 8
    ghosts.load_state_dict(_build({}).state_dict())


def test_frozen_scales_train_offsets_alone() -> None:
    module = _build({"frozen_scales": True})
    frozen = {name for name, item in module.named_parameters() if not item.requires_grad}
    assert frozen == {name for name, _ in module.named_parameters() if name.endswith("bn.weight")}
    assert len(frozen) == 8


def test_whitening_puts_frozen_filters_before_a_convolution_of_one_pixel() -> None:
    module = ResNet9(classes=10, whitening=True)
    assert module.whitening is not None
    assert list(module.whitening.weight.shape) == [27, 3, 3, 3]
    assert not module.whitening.weight.requires_grad
    assert list(module.state_dict()["features.prep.conv.weight"].shape) == [64, 27, 1, 1]


def test_an_activation_that_grows_exponentially_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^celu_alpha: got -1; must be at least 0$"):
        ResNet9(classes=10, celu_alpha=-1)


def test_logits_are_scaled() -> None:
    images_BCHW = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        single, double = (_build({"logit_scale": scale})(images_BCHW) for scale in (0.125, 0.25))
    torch.testing.assert_close(double, 2 * single)


@pytest.mark.parametrize("is_channels_last", [False, True])
def test_all_tricks_together_train(is_channels_last: bool) -> None:
    module = build_model("resnet9_tricks", classes=4, arguments={"width": 4}, seed=1).module.train()
    images_BCHW = torch.randn(70, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    if is_channels_last:
        module = module.to(memory_format=torch.channels_last)
        images_BCHW = images_BCHW.contiguous(memory_format=torch.channels_last)
    logits_BK = module(images_BCHW)
    nn.functional.cross_entropy(logits_BK, torch.arange(70) % 4).backward()
    for name, item in module.named_parameters():
        assert (item.grad is not None and bool(item.grad.isfinite().all())) == item.requires_grad, name


def test_all_tricks_together_export() -> None:
    bound = TaskCard(height=16, width=16, channels=3, classes=("a", "b", "c"))
    built = build_model("resnet9", classes=3, image_size=16, arguments={**TRICKS, "width": 4})
    unsettle(built.module)
    exported = export_model(built, bound)
    assert exported.agreement.max_logit_difference < 1e-4
    assert exported.cost.params == sum(item.numel() for item in built.module.parameters())

"""The networks of the sources: parameters as published, gradients, randomness, graphs that agree and cost right."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from timm.layers.config import set_fused_attn
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from unsettled_norms import unsettle

from model_zoo.architectures.catalogue import CATALOGUE
from model_zoo.card import TaskCard
from model_zoo.errors import ExportError
from model_zoo.export import export_model
from model_zoo.registry import BuiltModel, architecture_names, build_model

RESNET = "He et al. 2015 (arXiv 1512.03385), table 6"
PREACT = "He et al. 2016 (arXiv 1603.05027), comparison with the state of the art on CIFAR"
WIDE = "Zagoruyko and Komodakis 2016 (arXiv 1605.07146), table 4"
SHAKE = "Gastaldi 2017 (arXiv 1705.07485), comparison with the state of the art"
PYRAMID = "Han et al. 2017 (arXiv 1610.02915), table of error rates on CIFAR"


@dataclass(frozen=True)
class Small:
    """A family's smallest sensible network, and an input that is not the family's usual one."""

    name: str
    arguments: dict[str, Any]
    image: tuple[int, int]
    is_random: bool = False

    def build(self, **more: Any) -> BuiltModel:
        channels, size = self.image
        arguments = {**self.arguments, **more}
        return build_model(self.name, classes=5, channels=channels, image_size=size, arguments=arguments)

    def images(self, rows: int = 4) -> torch.Tensor:
        channels, size = self.image
        return torch.randn(rows, channels, size, size, generator=torch.Generator().manual_seed(2))


FAMILIES = (
    Small("hvc", {"filters": [8, 12, 16]}, (1, 14)),
    Small("preact_resnet20", {"depth": 8, "width": 8}, (1, 14)),
    Small("preact_resnet164", {"depth": 11, "width": 4}, (3, 12)),
    Small("vgg11", {"width": 8}, (1, 28)),
    Small("shake_shake26_2x32d", {"depth": 8, "width": 8}, (3, 14), is_random=True),
    # 18, 9 and 5 pixels: the shortcut's pooling and the strided convolution round alike.
    Small("pyramidnet110_a270_shakedrop", {"depth": 8, "alpha": 9}, (1, 18), is_random=True),
    Small("pyramidnet272_a200_shakedrop", {"depth": 11, "alpha": 9}, (3, 18), is_random=True),
    Small("small_vit_xs", {"depth": 2, "dim": 24, "drop_path": 0.5}, (1, 12), is_random=True),
)
families = pytest.mark.parametrize("small", FAMILIES, ids=lambda small: small.name)


@pytest.fixture(autouse=True)
def _own_randomness() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        yield


def meta_module(name: str, *, classes: int = 10, **arguments: Any) -> nn.Module:
    """Build a network without weights."""
    entry = CATALOGUE[name]
    size = {"image_size": entry.preset.height} if entry.has_fixed_size else {}
    with torch.device("meta"):
        return entry.build(classes=classes, channels=3, **{**entry.arguments, **size, **arguments})


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "millions", "last_digit", "source"),
    [
        ("preact_resnet20", 0.27, 0.01, RESNET), ("preact_resnet32", 0.46, 0.01, RESNET),
        ("preact_resnet44", 0.66, 0.01, RESNET), ("preact_resnet56", 0.85, 0.01, RESNET),
        ("preact_resnet110", 1.7, 0.1, PREACT), ("preact_resnet164", 1.7, 0.1, PREACT),
        ("wrn40_2", 2.2, 0.1, WIDE), ("wrn28_10", 36.5, 0.1, WIDE),
        ("shake_shake26_2x32d", 2.9, 0.1, SHAKE), ("shake_shake26_2x64d", 11.7, 0.1, SHAKE),
        ("shake_shake26_2x96d", 26.2, 0.1, SHAKE),
        ("pyramidnet272_a200_shakedrop", 26.0, 0.1, PYRAMID),
    ],
)  # fmt: skip
def test_parameters_are_the_papers_to_their_last_digit(
    name: str, millions: float, last_digit: float, source: str
) -> None:
    assert parameters(meta_module(name)) / 1e6 == pytest.approx(millions, abs=last_digit / 2), source


@pytest.mark.parametrize(
    ("depth", "alpha", "millions", "features"),
    [
        (110, 48, 1.7, 64),
        (110, 84, 3.8, 100),
        (110, 270, 28.3, 286),
        (164, 48, 1.7, 256),
        (164, 84, 3.8, 400),
        (164, 270, 27.0, 1144),
        (272, 200, 26.0, 864),
    ],
)
def test_pyramidnets_are_the_papers(depth: int, alpha: int, millions: float, features: int) -> None:
    # The paper's table. Its figures for alpha = 270, where the widths are whole numbers and leave nothing to round, are
    # 0.7 % below what its blocks have (28,485,477 and 27,216,021), and that of 164 layers with 84 is 2.4 % above.
    # The others are within 1.5 %, or within half of their last digit.
    block = "basic" if depth == 110 else "bottleneck"
    module = meta_module("pyramidnet110_a270_shakedrop", depth=depth, alpha=alpha, block=block)
    assert parameters(module) / 1e6 == pytest.approx(millions, rel=0.025)
    assert module.get_submodule("linear").in_features == features


@pytest.mark.parametrize(("depth", "millions"), [(11, 133), (13, 133), (16, 138), (19, 144)])
def test_vgg_with_the_papers_head_has_the_papers_parameters(depth: int, millions: int) -> None:
    # Simonyan and Zisserman 2015 (arXiv 1409.1556), table 2: convolutions with biases, and three linear layers.
    head = sum((before + 1) * after for before, after in ((7 * 7 * 512, 4096), (4096, 4096), (4096, 1000)))
    convolutions = [layer for layer in meta_module(f"vgg{depth}").modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == depth - 3
    found = sum(layer.weight.numel() + layer.out_channels for layer in convolutions)
    assert round((found + head) / 1e6) == millions


def test_vision_transformers_have_the_papers_bodies() -> None:
    # At the papers' patches, images and classes; their class token is two more rows of its dimension.
    def millions(dim: int, heads: int) -> int:
        module = meta_module("small_vit_m", classes=1000, image_size=224, patch_size=16, dim=dim, heads=heads)
        return (parameters(module) + 2 * dim) // 10**6

    # Touvron et al. 2021 (arXiv 2012.12877), table 1, whose figures are cut off: 5.7, 22.05 and 86.6.
    assert [millions(192, 3), millions(384, 6), millions(768, 12)] == [5, 22, 86]


def test_thinner_resnets_have_fewer_parameters() -> None:
    thin, full = parameters(meta_module("resnet20", width=8)), parameters(meta_module("resnet20"))
    assert thin == pytest.approx(full / 4, rel=0.02)


@families
def test_logits_are_finite_and_gradients_reach_every_parameter(small: Small) -> None:
    module = small.build().module.train()
    logits_BK = module(small.images())
    assert logits_BK.shape == (4, 5)
    functional.cross_entropy(logits_BK, torch.tensor([0, 1, 2, 3])).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@families
def test_evaluation_is_deterministic_and_draws_nothing(small: Small) -> None:
    module = small.build().module
    state = torch.random.get_rng_state()
    with torch.inference_mode():
        assert torch.equal(module(small.images()), module(small.images()))
    assert torch.equal(torch.random.get_rng_state(), state)


@families
def test_training_is_random_where_the_method_is_and_follows_the_seed(small: Small) -> None:
    def logits(seed: int) -> torch.Tensor:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            module = small.build().module.train()
            output: torch.Tensor = module(small.images())
            return output

    assert torch.equal(logits(1), logits(1))
    assert torch.equal(logits(1), logits(2)) == (not small.is_random)


@families
def test_training_step_in_bfloat16(small: Small) -> None:
    module = small.build().module.train().to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_BK = module(small.images())
    functional.cross_entropy(logits_BK.float(), torch.tensor([0, 1, 2, 3])).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize(
    "small",
    [small for small in FAMILIES if small.name not in ("preact_resnet164", "pyramidnet272_a200_shakedrop")],
    ids=lambda small: small.name,
)
def test_graph_agrees_with_torch_and_costs_what_torch_counts(small: Small) -> None:
    # Torch's counter sees no products inside fused attention.
    set_fused_attn(False)
    built = small.build()
    unsettle(built.module)
    channels, size = small.image
    task = TaskCard.model_validate({"height": size, "width": size, "channels": channels, "classes": tuple("abcde")})
    exported = export_model(built, task)
    assert exported.agreement.max_logit_difference < 1e-4
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        built.module(small.images(1))
    assert exported.cost.flops == counter.get_total_flops() > 0


def test_all_families_have_names() -> None:
    names = set(architecture_names())
    assert {small.name for small in FAMILIES} <= names
    assert {f"vgg{depth}" for depth in (11, 13, 16, 19)} <= names
    assert {f"preact_resnet{depth}" for depth in (20, 32, 44, 56, 110, 164)} <= names
    assert {f"small_vit_{size}" for size in ("xs", "s", "m", "l")} <= names


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("hvc", {"image_size": 18}, "image_size: got 18; must be above 18 for 9 filters"),
        ("preact_resnet20", {"depth": 21}, r"depth: got 21; must be 6n \+ 2 with n at least 1, of basic units"),
        ("preact_resnet20", {"block": "wide"}, "block: got 'wide'; must be one of basic, bottleneck"),
        ("preact_resnet20", {"shortcut": "none"}, "shortcut: got 'none'; must be one of padding, projection"),
        ("vgg11", {"depth": 12}, "depth: got 12; must be one of 11, 13, 16, 19"),
        ("shake_shake26_2x32d", {"depth": 25}, r"depth: got 25; must be 6n \+ 2"),
        ("shake_shake26_2x32d", {"backward_noise": "odd"}, "backward_noise: got 'odd'; must be one of shake, even"),
        (
            "pyramidnet110_a270_shakedrop",
            {"depth": 111},
            r"depth: got 111; must be 6n \+ 2 with n at least 1, of basic",
        ),
        ("pyramidnet110_a270_shakedrop", {"block": "wide"}, "block: got 'wide'; must be one of basic, bottleneck"),
        ("pyramidnet110_a270_shakedrop", {"alpha": -1}, "alpha: got -1; must be at least 0"),
        ("pyramidnet110_a270_shakedrop", {"survival": 1.5}, r"survival: got 1\.\d+; must be in \[0, 1\]"),
        (
            "pyramidnet110_a270_shakedrop",
            {"shakedrop_level": "row"},
            "shakedrop_level: got 'row'; must be one of image",
        ),
        ("small_vit_xs", {"image_size": 30}, "image_size: got 30; must be a multiple of patch_size, 4"),
        ("small_vit_xs", {"dim": 100}, "dim: got 100; must be a multiple of heads, 3"),
        ("small_vit_xs", {"heads": 0}, "heads: got 0; must be at least 1"),
        ("small_vit_xs", {"patch_size": 0}, "patch_size: got 0; must be at least 1"),
    ],
)
def test_wrong_arguments_are_refused(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        build_model(name, classes=10, arguments=arguments)

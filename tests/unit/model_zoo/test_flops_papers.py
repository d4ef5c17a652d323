"""Counted multiply-adds of well-known networks against the literature's, and against torch's own counter."""

from dataclasses import dataclass

import pytest
import timm
import torch
from skeleton_graph import skeleton_graph
from timm.layers.config import set_fused_attn
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model_zoo.architectures.cifar_resnet import CifarResNet
from model_zoo.flops import count_model

EFFICIENTNET = "Tan and Le, EfficientNet (arXiv 1905.11946), table 2"
MOBILENET = "Sandler et al., MobileNetV2 (arXiv 1801.04381), table 4"
COMMITTEES = "Wang et al., Wisdom of Committees (arXiv 2012.01988)"
TORCHVISION = "torchvision's model documentation, GFLOPS of the ImageNet weights"


@dataclass(frozen=True)
class Row:
    """A figure of the literature, in 10^9 multiply-adds per image, as it is printed there.

    Figures of two digits are off by up to half of the last one, which for 1.0 is 5 %; all rows hold at 3 % even so.
    EfficientNet's own table says 4.2 for B4 and 9.9 for B5; these two don't fit its architecture at its resolutions
    (independent counters find 4.4 and 10.3, as we do), so later sources stand here. He et al. (2015) say 3.8, 7.6 and
    11.3 for ResNets with the stride in the first 1x1 convolution; in timm's it is in the 3x3, which costs more.
    """

    name: str
    size: int
    giga_macs: float
    source: str


ROWS = (
    Row("efficientnet_b0", 224, 0.39, EFFICIENTNET),
    Row("efficientnet_b1", 240, 0.70, EFFICIENTNET),
    Row("efficientnet_b2", 260, 1.0, EFFICIENTNET),
    Row("efficientnet_b3", 300, 1.8, EFFICIENTNET),
    Row("efficientnet_b4", 380, 4.39, TORCHVISION),
    Row("efficientnet_b5", 456, 10.3, COMMITTEES),
    Row("efficientnet_b6", 528, 19, EFFICIENTNET),
    Row("efficientnet_b7", 600, 37, EFFICIENTNET),
    Row("mobilenetv2_100", 224, 0.300, MOBILENET),
    Row("resnet50", 224, 4.09, TORCHVISION),
    Row("resnet101", 224, 7.80, TORCHVISION),
    Row("resnet152", 224, 11.51, TORCHVISION),
    Row("vit_base_patch16_224", 224, 17.56, TORCHVISION),
    Row("vit_large_patch16_224", 224, 61.55, TORCHVISION),
)


@pytest.fixture(autouse=True)
def _no_fused_attention() -> None:
    # Fused attention is one operator, whose products neither recorder would see.
    set_fused_attn(False)


def meta_model(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name).eval()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_multiply_adds_are_the_literatures(row: Row) -> None:
    cost = count_model(skeleton_graph(meta_model(row.name), (3, row.size, row.size)))
    assert cost.macs / 1e9 == pytest.approx(row.giga_macs, rel=0.03), row.source


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenetv2_100", "resnet50", "vit_tiny_patch16_224"])
def test_skeleton_agrees_with_torchs_counter_exactly(name: str) -> None:
    model = meta_model(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 224, 224, device="meta"))
    assert count_model(skeleton_graph(model, (3, 224, 224))).flops == counter.get_total_flops()


def test_resnet20_costs_what_follows_from_its_layers() -> None:
    first, last = 32 * 32 * 16 * 27, 640
    # Three blocks of two 3x3 convolutions a group; the first of a group halves the size and doubles the filters.
    group1 = 6 * 32 * 32 * 16 * 144
    group2 = 16 * 16 * 32 * (144 + 5 * 288)
    group3 = 8 * 8 * 64 * (288 + 5 * 576)
    with torch.device("meta"):
        module = CifarResNet(depth=20, classes=10).eval()
    cost = count_model(skeleton_graph(module, (3, 32, 32)))
    assert cost.macs == first + group1 + group2 + group3 + last == 40_551_040

"""The capsule network against its formula, its published size, and its cost worked by hand."""

import pytest
import torch
from skeleton_graph import skeleton_graph
from torch import Tensor, nn
from unsettled_norms import unsettle

from model_zoo.architectures.hvc import FILTERS, HvcNetwork
from model_zoo.flops import count_model


def meta_network(image_size: int, channels: int = 1, classes: int = 10) -> HvcNetwork:
    with torch.device("meta"):
        return HvcNetwork(classes=classes, channels=channels, image_size=image_size)


def normalised(values: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    """Normalise by a layer's running statistics, its features last."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return (values - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


def test_logits_are_lengths_of_sums_of_element_wise_products() -> None:
    network = HvcNetwork(classes=3, channels=1, image_size=8, filters=(4, 5))
    unsettle(network.eval())
    images_BCHW = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        maps_BCHW = network.features(images_BCHW)
        # Each of the 4x4 pixels is a capsule; its dimensions are the 5 channels.
        capsules_BND = maps_BCHW.permute(0, 2, 3, 1).reshape(2, 16, 5)
        vectors_BKD = (capsules_BND[:, None] * network.capsules_KND).sum(dim=2)
        vectors_BKD = normalised(vectors_BKD, network.bn_vectors).relu()
        lengths_BK = vectors_BKD.square().sum(dim=2).sqrt()
        expected_BK = normalised(lengths_BK, network.bn_logits)
        assert torch.allclose(network(images_BCHW), expected_BK, atol=1e-6)


def test_gradient_is_finite_where_all_vectors_are_zero() -> None:
    network = HvcNetwork(classes=3, channels=1, image_size=8, filters=(4, 5))
    nn.init.constant_(network.bn_vectors.bias, -1e3)
    images_BCHW = torch.randn(4, 1, 8, 8)
    network(images_BCHW).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


def test_size_is_the_published_one_less_two_branches() -> None:
    # Byerly et al. 2021: 1,514,187 for MNIST: convolutions and capsules of three branches, with offsets but no scales:
    # one a filter, one a dimension of each branch's vectors (there the pixels of a channel), one a branch.
    published = 1_514_187
    network = meta_network(28)
    convolutions = sum(layer.weight.numel() for layer in network.features if isinstance(layer, nn.Conv2d))
    inner_branches = 10 * (64 * 22 * 22 + 112 * 16 * 16)
    offsets = sum(FILTERS) + (22 * 22 + 16 * 16 + 10 * 10) + 3
    assert convolutions + network.capsules_KND.numel() + inner_branches + offsets == published


@pytest.mark.parametrize(
    ("image_size", "channels", "classes", "capsules"),
    [(28, 1, 10, 100), (32, 3, 10, 196), (48, 1, 5, 900), (96, 2, 5, 6084)],
)
def test_cost_follows_from_the_layers(image_size: int, channels: int, classes: int, capsules: int) -> None:
    network = meta_network(image_size, channels, classes).eval()
    assert network.capsules_KND.shape == (classes, capsules, 160)
    macs = classes * capsules * 160
    size, width = image_size, channels
    for filters in FILTERS:
        size -= 2
        macs += size * size * filters * width * 9
        width = filters
    assert count_model(skeleton_graph(network, (channels, image_size, image_size))).macs == macs


def test_learns_two_classes_within_a_few_steps() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = HvcNetwork(classes=2, channels=1, image_size=8, filters=(4, 8))
        labels_B = torch.arange(32) % 2
        images_BCHW = torch.randn(32, 1, 8, 8)
        images_BCHW[:, :, :4] += labels_B.view(-1, 1, 1, 1) * 2.0
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        for _ in range(30):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images_BCHW), labels_B).backward()
            optimizer.step()
        assert (network(images_BCHW).argmax(dim=1) == labels_B).all()

"""CIFAR-10 and CIFAR-100, from torchvision's files or an image folder such as CIFAR-10-JPEG."""

from training.config import RunConfig
from training.data.splits import SplitConfig
from training.data.torchvision_sets import TorchvisionSource
from training.recipes.resnet9 import PHOTOGRAPHS, resnet9_run, scale_for


def cifar10(*, device: str = "cpu", seed: int = 0) -> RunConfig:
    """Give a family of ResNet-9: on a GPU up to full width, on a CPU what two slow cores train in half an hour.

    Args:
        device: where to train; decides the sizes.
        seed: of splits, selection, search and training.
    """
    source = TorchvisionSource(kind="cifar10")
    return resnet9_run("cifar10", source, _splits(seed), scale_for(device), PHOTOGRAPHS, device=device, seed=seed)


def cifar100(*, device: str = "cpu", seed: int = 0) -> RunConfig:
    """Give the same family for a hundred classes, trained half as long again.

    Args:
        device: where to train; decides the sizes.
        seed: of splits, selection, search and training.
    """
    source, scale = TorchvisionSource(kind="cifar100"), scale_for(device).for_longer(1.5)
    return resnet9_run("cifar100", source, _splits(seed), scale, PHOTOGRAPHS, device=device, seed=seed)


def _splits(seed: int) -> SplitConfig:
    return SplitConfig(policy_validation=2500, calibration=5000, test=0, seed=seed)

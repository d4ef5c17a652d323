"""Written digits and house numbers: MNIST and SVHN, from torchvision's files or image folders."""

from dataclasses import replace

from training.config import RunConfig
from training.data.splits import SplitConfig
from training.data.torchvision_sets import TorchvisionSource
from training.recipes.resnet9 import SIGNS, resnet9_run, scale_for


def svhn(*, device: str = "cpu", seed: int = 0) -> RunConfig:
    """Give a family of ResNet-9 for house numbers; ``--set source.extra=true`` adds the easier half million.

    Args:
        device: where to train; decides the sizes.
        seed: of splits, selection, search and training.
    """
    splits = SplitConfig(policy_validation=2500, calibration=5000, test=0, seed=seed)
    source = TorchvisionSource(kind="svhn")
    return resnet9_run("svhn", source, splits, scale_for(device), SIGNS, device=device, seed=seed)


def mnist(*, device: str = "cpu", seed: int = 0) -> RunConfig:
    """Give a family of ResNet-9 for handwritten digits, half as wide and trained half as long as for photographs.

    Args:
        device: where to train; decides the sizes.
        seed: of splits, selection, search and training.
    """
    splits = SplitConfig(policy_validation=2500, calibration=5000, test=0, seed=seed)
    scale = scale_for(device).for_longer(0.5)
    scale = replace(scale, widths=tuple(width // 2 for width in scale.widths))
    return resnet9_run("mnist", TorchvisionSource(kind="mnist"), splits, scale, SIGNS, device=device, seed=seed)

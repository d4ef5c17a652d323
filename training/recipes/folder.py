"""Any folder of images: classes, size, channels, mean and spread are found by looking."""

from training.config import RunConfig
from training.data.folder import FolderSource
from training.data.splits import SplitConfig
from training.recipes.resnet9 import PHOTOGRAPHS, resnet9_run, scale_for


def folder(*, device: str = "cpu", seed: int = 0) -> RunConfig:
    """Give a family of ResNet-9 for the user's own photographs, in shares of however many there are.

    Images of several sizes are made equal by ``--set source.odd_sizes=resize``; large ones train slowly, and
    ``--set 'source.size=[64,64]'`` makes them smaller. A test part of the folder's own is used by ``splits.test=0``.

    Args:
        device: where to train; decides the sizes.
        seed: of splits, selection, search and training.
    """
    splits = SplitConfig(policy_validation=0.05, calibration=0.15, test=0.15, seed=seed)
    return resnet9_run("folder", FolderSource(), splits, scale_for(device), PHOTOGRAPHS, device=device, seed=seed)

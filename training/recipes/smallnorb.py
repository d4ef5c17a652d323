"""Photographs of toys: smallNORB."""

from training.augment.config import AugmentConfig
from training.config import RunConfig
from training.data.smallnorb import SmallNorbSource
from training.data.splits import SplitConfig
from training.recipes.resnet9 import resnet9_run, scale_for

_AUGMENT = AugmentConfig(pad_px=4, pad_mode="reflect")


def smallnorb(*, device: str = "cpu", seed: int = 0) -> RunConfig:
    """Give a family of ResNet-9 on 48x48 pixels; test toys are others than those trained on, and so are calibration's.

    Of the five toys of a class one goes to calibration; a policy search needs another one, by
    ``--set splits.policy_validation=1000``.

    Args:
        device: where to train; decides the sizes.
        seed: of splits, selection, search and training.
    """
    splits = SplitConfig(calibration=3000, test=0, seed=seed)
    source = SmallNorbSource(size_px=48)
    return resnet9_run("smallnorb", source, splits, scale_for(device), _AUGMENT, device=device, seed=seed)

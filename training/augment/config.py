"""What is done to training images at random, as a run's configuration says it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from training.augment.policy import PolicySchedule

RANDAUGMENT_BINS = 31
"""Magnitudes of RandAugment and TrivialAugment, as torchvision counts them: 0..30."""


class Flip(StrEnum):
    """How images are mirrored.

    ALTERNATING: half of the images, chosen by number and seed, in the first epoch, then each image in every other epoch
    (Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv 2404.00498, section 3.6).
    """

    NONE = "none"
    RANDOM = "random"
    ALTERNATING = "alternating"


class PolicyKind(StrEnum):
    """What draws ops for each image, before crop, flip and Cutout.

    SCHEDULE: a PBA schedule. FLATTENED: its policies, in no order. The others need no search, and have torchvision's
    magnitudes: RandAugment (Cubuk et al., arXiv 1909.13719), wide TrivialAugment (Müller and Hutter, arXiv 2103.10158),
    AutoAugment (Cubuk et al., arXiv 1805.09501).
    """

    NONE = "none"
    SCHEDULE = "schedule"
    FLATTENED = "flattened"
    RANDAUGMENT = "randaugment"
    TRIVIALAUGMENT = "trivialaugment"
    AUTOAUGMENT = "autoaugment"


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Policy, then pad and crop, then flip, then Cutout; each is off by default.

    Attributes:
        pad_px: padding on each side before the crop back to the image's size, in pixels.
        pad_mode: ``reflect`` mirrors the image about its outermost pixels; ``constant`` pads with the fill.
        flip: mirroring.
        flip_seed: of the alternating flip's first epoch.
        cutout_px: side of the square that is covered, in pixels; 0 is none.
        policy: what draws ops.
        policy_schedule: for ``SCHEDULE`` and ``FLATTENED``, and only there.
        randaugment_ops: ops an image.
        randaugment_magnitude: 0..30, of all of them.
        autoaugment_policy: data set that the policies were found on.
        fill: colour of uncovered pixels, 0..255 a channel; None is the data set's mean.
    """

    pad_px: int = 0
    pad_mode: Literal["reflect", "constant"] = "reflect"
    flip: Flip = Flip.NONE
    flip_seed: int = 0
    cutout_px: int = 0
    policy: PolicyKind = PolicyKind.NONE
    policy_schedule: PolicySchedule | None = None
    randaugment_ops: int = 2
    randaugment_magnitude: int = 9
    autoaugment_policy: Literal["cifar10", "svhn", "imagenet"] = "cifar10"
    fill: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name, least in (("pad_px", 0), ("flip_seed", 0), ("cutout_px", 0), ("randaugment_ops", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: got {getattr(self, name)}; must be at least {least}")
        if not 0 <= self.randaugment_magnitude < RANDAUGMENT_BINS:
            limit = RANDAUGMENT_BINS - 1
            raise ValueError(f"randaugment_magnitude: got {self.randaugment_magnitude}; must lie in 0..{limit}")
        for name, known in (("pad_mode", ("reflect", "constant")), ("autoaugment_policy", AUTOAUGMENT_POLICIES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: got {getattr(self, name)!r}; must be one of {', '.join(known)}")
        self._check_policy()
        if self.fill is not None:
            check_fill(self.fill)

    def _check_policy(self) -> None:
        takes_schedule = self.policy in {PolicyKind.SCHEDULE, PolicyKind.FLATTENED}
        if takes_schedule and self.policy_schedule is None:
            raise ValueError(f"policy_schedule: got none; policy {self.policy.value!r} must have one")
        if not takes_schedule and self.policy_schedule is not None:
            raise ValueError(
                f"policy_schedule: got one, which policy {self.policy.value!r} does not use;"
                " policy must be 'schedule' or 'flattened'"
            )


AUTOAUGMENT_POLICIES = ("cifar10", "svhn", "imagenet")


def check_fill(fill: tuple[int, ...]) -> None:
    """Check a colour.

    Raises:
        ValueError: it has no channel, or a value outside of 0..255.
    """
    if not fill or not all(0 <= value <= 255 for value in fill):
        raise ValueError(f"fill: got {fill}; must be at least one value, each in 0..255")

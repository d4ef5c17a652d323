"""From configuration to augmentation: policy, then pad and crop, flip, and Cutout, as the papers order them."""
# Shapes: B images, C channels, H height, W width.

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.augment.augmentation import Augmentation, Moment
from training.augment.config import AugmentConfig, Flip, PolicyKind, check_fill
from training.augment.controls import AutoAugmentation, RandAugmentation, TrivialAugmentation
from training.augment.crops import crop_and_flip, cut_out_randomly, draw_flips, draw_shifts
from training.augment.policies import FlattenedPolicies, ScheduledPolicies
from training.augment.policy import Policy, PolicySchedule, Segment
from training.augment.sending import send
from training.errors import AugmentError


def make_augmentation(config: AugmentConfig, fill: Sequence[int]) -> Augmentation:
    """Make what a configuration says.

    Args:
        config: of the augmentation.
        fill: the data set's mean colour, 0..255, one a channel; the configuration's own takes precedence.

    Raises:
        ValueError: the fill is no colour.
        AugmentError: a policy names an op that is not registered, or meets images of neither 1 nor 3 channels.
    """
    colour = _fill(config, fill)
    return _Augmentation(config=config, fill=colour, policy=_make_policy(config, colour))


def policy_augmentation(policy: Policy, config: AugmentConfig, fill: Sequence[int]) -> Augmentation:
    """Make what a trial of a policy search does: its policy, then the configuration's crop, flip and Cutout.

    Args:
        policy: in force throughout, in place of the configuration's.
        config: of the rest.
        fill: as in ``make_augmentation``.

    Raises:
        ValueError: as in ``make_augmentation``.
        AugmentError: as in ``make_augmentation``.
    """
    colour = _fill(config, fill)
    _check_channels(colour)
    schedule = PolicySchedule(segments=(Segment(epochs=1, policy=policy),))
    return _Augmentation(config=config, fill=colour, policy=ScheduledPolicies(schedule=schedule, fill=colour))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Augmentation:
    config: AugmentConfig
    fill: tuple[int, ...]
    policy: Augmentation | None

    def __call__(self, images_BCHW: Tensor, ids_B: Tensor, moment: Moment, generator: torch.Generator) -> Tensor:
        """Give changed images; the images themselves, where nothing is to be done (see ``Augmentation``).

        Raises:
            AugmentError: the images have other channels than the fill, or are too small for the padding.
        """
        self._check(images_BCHW)
        if self.policy is not None:
            images_BCHW = self.policy(images_BCHW, ids_B, moment, generator)
        fill_C = send(torch.tensor(self.fill, dtype=torch.uint8), images_BCHW.device)
        config = self.config
        if config.pad_px or config.flip is not Flip.NONE:
            shifts_2B = send(draw_shifts(len(images_BCHW), config.pad_px, generator), images_BCHW.device)
            is_flipped_B = draw_flips(ids_B, config.flip, config.flip_seed, moment, generator)
            images_BCHW = crop_and_flip(images_BCHW, shifts_2B, is_flipped_B, config.pad_mode, fill_C)
        if config.cutout_px:
            images_BCHW = cut_out_randomly(images_BCHW, config.cutout_px, fill_C, generator)
        return images_BCHW

    def _check(self, images_BCHW: Tensor) -> None:
        _, channels, height, width = images_BCHW.shape
        if channels != len(self.fill):
            raise AugmentError(
                f"fill: got {len(self.fill)} values; must be one for each of the images' {channels} channels"
            )
        if self.config.pad_mode == "reflect" and self.config.pad_px >= min(height, width):
            raise AugmentError(
                f"pad_px: got {self.config.pad_px}; must be under {min(height, width)} to reflect images of"
                f" {height} x {width} pixels"
            )


def _make_policy(config: AugmentConfig, fill: tuple[int, ...]) -> Augmentation | None:
    if config.policy is PolicyKind.NONE:
        return None
    _check_channels(fill)
    if config.policy is PolicyKind.RANDAUGMENT:
        return RandAugmentation(ops=config.randaugment_ops, magnitude=config.randaugment_magnitude, fill=fill)
    if config.policy is PolicyKind.TRIVIALAUGMENT:
        return TrivialAugmentation(fill=fill)
    if config.policy is PolicyKind.AUTOAUGMENT:
        return AutoAugmentation(policy=config.autoaugment_policy, fill=fill)
    assert config.policy_schedule is not None
    kind = ScheduledPolicies if config.policy is PolicyKind.SCHEDULE else FlattenedPolicies
    return kind(schedule=config.policy_schedule, fill=fill)


def _fill(config: AugmentConfig, fill: Sequence[int]) -> tuple[int, ...]:
    colour = config.fill or tuple(fill)
    check_fill(colour)
    return colour


def _check_channels(fill: tuple[int, ...]) -> None:
    if len(fill) not in {1, 3}:
        raise AugmentError(f"fill: got {len(fill)} channels; policies change images of 1 or 3 channels")

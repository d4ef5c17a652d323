"""The whole augmentation of a configuration, its order and its limits."""
# Shapes: B images, C channels, H height, W width.

from dataclasses import replace
from typing import Any

import pytest
import torch
from augmented_images import random_images, seeded
from torch import Tensor

from training.augment.augmentation import Augmentation, Moment
from training.augment.build import make_augmentation, policy_augmentation
from training.augment.config import AugmentConfig, Flip, PolicyKind
from training.augment.ops import initial_policy
from training.augment.policy import PolicyEntry, PolicySchedule, Segment
from training.errors import AugmentError
from training.settings import from_json, to_json

_INVERT = (PolicyEntry(op="Invert", probability=10),)
_SCHEDULE = PolicySchedule(segments=(Segment(epochs=2, policy=_INVERT), Segment(epochs=1, policy=initial_policy())))
_ALL = AugmentConfig(
    pad_px=4,
    flip=Flip.ALTERNATING,
    cutout_px=8,
    policy=PolicyKind.SCHEDULE,
    policy_schedule=_SCHEDULE,
)


def _run(augmentation: Augmentation, images_BCHW: Tensor, epoch: int = 0, seed: int = 0) -> Tensor:
    ids_B = torch.arange(len(images_BCHW), device=images_BCHW.device)
    return augmentation(images_BCHW, ids_B, Moment(epoch=epoch, epochs=3), seeded(seed))


def test_by_default_nothing_is_done() -> None:
    images_BCHW = random_images(3)
    assert _run(make_augmentation(AugmentConfig(), (0, 0, 0)), images_BCHW) is images_BCHW


@pytest.mark.parametrize("kind", PolicyKind)
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 32, 32), (3, 9, 14)])
def test_every_policy_takes_any_size_and_leaves_its_input(
    kind: PolicyKind, channels: int, height: int, width: int
) -> None:
    schedule = _SCHEDULE if kind in {PolicyKind.SCHEDULE, PolicyKind.FLATTENED} else None
    config = replace(_ALL, policy=kind, policy_schedule=schedule)
    images_BCHW = random_images(50, channels, height=height, width=width)
    before_BCHW = images_BCHW.clone()
    augmentation = make_augmentation(config, [90] * channels)
    changed_BCHW = _run(augmentation, images_BCHW)
    assert changed_BCHW.shape == images_BCHW.shape
    assert changed_BCHW.dtype == torch.uint8
    assert not torch.equal(changed_BCHW, images_BCHW)
    assert torch.equal(images_BCHW, before_BCHW)
    assert torch.equal(_run(augmentation, images_BCHW), changed_BCHW)
    assert len(_run(augmentation, images_BCHW[:0])) == 0


def test_the_policy_comes_before_the_crop_and_cutout_is_last() -> None:
    # Inverted black is white; the padding and the square keep the fill, and are not inverted.
    images_BCHW = torch.zeros(500, 1, 16, 16, dtype=torch.uint8)
    config = AugmentConfig(pad_px=4, pad_mode="constant", cutout_px=6)
    changed_BCHW = _run(policy_augmentation(_INVERT, config, (77,)), images_BCHW)
    assert set(changed_BCHW.unique().tolist()) == {0, 77, 255}
    # A square in the middle is whole, though the padding on the way to it would have been cut too.
    middle_BHW = changed_BCHW[:, 0, 5:11, 5:11] == 77
    assert int(middle_BHW.sum((1, 2)).max()) == 36


def test_the_configurations_fill_goes_before_the_data_sets() -> None:
    images_BCHW = torch.full((50, 1, 8, 8), 255, dtype=torch.uint8)
    config = AugmentConfig(pad_px=2, pad_mode="constant", fill=(0,))
    assert set(_run(make_augmentation(config, (99,)), images_BCHW).unique().tolist()) == {0, 255}


def test_the_schedule_follows_the_run_and_flips_alternate() -> None:
    images_BCHW = random_images(60)
    plain = make_augmentation(AugmentConfig(flip=Flip.ALTERNATING), (0, 0, 0))
    first_BCHW, second_BCHW, third_BCHW = (_run(plain, images_BCHW, epoch) for epoch in range(3))
    assert torch.equal(first_BCHW.flip(-1), second_BCHW)
    assert torch.equal(first_BCHW, third_BCHW)
    scheduled = make_augmentation(AugmentConfig(policy=PolicyKind.SCHEDULE, policy_schedule=_SCHEDULE), (0, 0, 0))
    assert not torch.equal(_run(scheduled, images_BCHW, 1), images_BCHW)
    assert torch.equal(_run(scheduled, images_BCHW, 2), images_BCHW)


def test_a_configuration_survives_its_file() -> None:
    assert from_json(AugmentConfig, to_json(_ALL)) == _ALL


@pytest.mark.gpu
def test_a_gpu_crops_flips_and_covers_as_a_cpu_does_and_colours_within_a_level() -> None:
    policy = tuple(PolicyEntry(op=entry.op, probability=5, magnitude=7) for entry in initial_policy())
    augmentation = policy_augmentation(policy, replace(_ALL, policy=PolicyKind.NONE, policy_schedule=None), (9, 9, 9))
    images_BCHW = random_images(2000)
    on_cpu_BCHW, on_gpu_BCHW = (_run(augmentation, images_BCHW.to(device)) for device in ("cpu", "cuda"))
    difference_BCHW = (on_cpu_BCHW.int() - on_gpu_BCHW.cpu().int()).abs()
    # A level may be cut off otherwise, and be inverted, stretched or thresholded by what comes then.
    assert float((difference_BCHW > 1).float().mean()) < 0.001


@pytest.mark.gpu
@pytest.mark.parametrize("kind", PolicyKind)
def test_nothing_waits_for_a_gpu(kind: PolicyKind) -> None:
    schedule = _SCHEDULE if kind in {PolicyKind.SCHEDULE, PolicyKind.FLATTENED} else None
    config = replace(_ALL, flip=Flip.RANDOM, policy=kind, policy_schedule=schedule)
    augmentation = make_augmentation(config, (9, 9, 9))
    images_BCHW, ids_B = random_images(500).cuda(), torch.arange(500, device="cuda")
    for mode in ("default", "error"):  # the first call fetches the maps of movements
        torch.cuda.set_sync_debug_mode(mode)
        try:
            augmentation(images_BCHW, ids_B, Moment(epoch=0, epochs=3), seeded())
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pad_px": -1}, "pad_px: got -1; must be at least 0"),
        ({"cutout_px": -2}, "cutout_px: got -2; must be at least 0"),
        ({"flip_seed": -1}, "flip_seed: got -1; must be at least 0"),
        ({"pad_mode": "wrap"}, "pad_mode: got 'wrap'; must be one of reflect, constant"),
        ({"randaugment_ops": 0}, "randaugment_ops: got 0; must be at least 1"),
        ({"randaugment_magnitude": 31}, r"randaugment_magnitude: got 31; must lie in 0\.\.30"),
        ({"autoaugment_policy": "mnist"}, "autoaugment_policy: got 'mnist'; must be one of cifar10, svhn, imagenet"),
        ({"policy": PolicyKind.SCHEDULE}, "policy_schedule: got none; policy 'schedule' must have one"),
        ({"policy_schedule": _SCHEDULE}, "policy_schedule: got one, which policy 'none' does not use"),
        ({"fill": ()}, r"fill: got \(\); must be at least one value, each in 0\.\.255"),
        ({"fill": (3, 256)}, r"fill: got \(3, 256\); must be at least one value, each in 0\.\.255"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(AugmentConfig(), **changes)


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(AugmentError, match="fill: got 3 values; must be one for each of the images' 1 channels"):
        _run(make_augmentation(AugmentConfig(), (0, 0, 0)), random_images(2, 1))
    with pytest.raises(AugmentError, match="pad_px: got 8; must be under 8 to reflect images of 9 x 8 pixels"):
        _run(make_augmentation(AugmentConfig(pad_px=8), (0,)), random_images(2, 1, height=9, width=8))
    with pytest.raises(AugmentError, match="fill: got 2 channels; policies change images of 1 or 3 channels"):
        make_augmentation(AugmentConfig(policy=PolicyKind.RANDAUGMENT), (0, 0))
    with pytest.raises(AugmentError, match="fill: got 2 channels; policies change images of 1 or 3 channels"):
        policy_augmentation(_INVERT, AugmentConfig(), (0, 0))
    with pytest.raises(AugmentError, match="op: got 'Swirl'"):
        policy_augmentation((PolicyEntry(op="Swirl"),), AugmentConfig(), (0,))


def test_crops_flips_and_cutout_take_any_number_of_channels() -> None:
    config = AugmentConfig(pad_px=2, flip=Flip.RANDOM, cutout_px=2)
    images_BCHW = torch.randint(0, 256, (5, 2, 8, 8), dtype=torch.uint8, generator=seeded())
    assert _run(make_augmentation(config, (1, 2)), images_BCHW).shape == (5, 2, 8, 8)

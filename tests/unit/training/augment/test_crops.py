"""Crops, flips and Cutout: by hand, and window by window."""
# Shapes: B images, C channels, H height, W width.

from typing import Literal

import pytest
import torch
from augmented_images import FILLS, random_images, seeded
from torch import Tensor
from torch.nn import functional

from training.augment.augmentation import Moment
from training.augment.config import Flip
from training.augment.crops import crop_and_flip, cut_out_randomly, draw_flips, draw_shifts

_Mode = Literal["reflect", "constant"]
_LINE = torch.tensor([[[[1, 2, 3, 4]]]], dtype=torch.uint8)


def _crop(images_BCHW: Tensor, down: int, right: int, mode: _Mode, *, is_flipped: bool = False) -> Tensor:
    rows, channels = images_BCHW.shape[:2]
    shifts_2B = torch.tensor([[down], [right]]).expand(2, rows)
    fill_C = torch.tensor(FILLS[channels], dtype=torch.uint8)
    return crop_and_flip(images_BCHW, shifts_2B, torch.full((rows,), is_flipped), mode, fill_C)


@pytest.mark.parametrize(
    ("right", "mode", "is_flipped", "expected"),
    [
        (0, "constant", False, [1, 2, 3, 4]),
        (0, "constant", True, [4, 3, 2, 1]),
        (1, "constant", False, [2, 3, 4, 40]),
        (-2, "constant", False, [40, 40, 1, 2]),
        (1, "constant", True, [40, 4, 3, 2]),
        (9, "constant", False, [40, 40, 40, 40]),
        (1, "reflect", False, [2, 3, 4, 3]),
        (3, "reflect", False, [4, 3, 2, 1]),
        (-2, "reflect", False, [3, 2, 1, 2]),
        (-2, "reflect", True, [2, 1, 2, 3]),
    ],
)
def test_a_line_by_hand(right: int, mode: _Mode, is_flipped: bool, expected: list[int]) -> None:
    assert _crop(_LINE, 0, right, mode, is_flipped=is_flipped).flatten().tolist() == expected


@pytest.mark.parametrize("mode", ["reflect", "constant"])
@pytest.mark.parametrize(("channels", "height", "width"), [(3, 8, 8), (1, 7, 12)])
def test_each_image_is_the_window_of_its_shift(mode: _Mode, channels: int, height: int, width: int) -> None:
    pad = 4
    images_BCHW = random_images(200, channels, height=height, width=width)
    shifts_2B = draw_shifts(200, pad, seeded(1))
    is_flipped_B = draw_flips(torch.arange(200), Flip.RANDOM, 0, Moment(epoch=0, epochs=1), seeded(2))
    fill_C = torch.tensor(FILLS[channels], dtype=torch.uint8)
    changed_BCHW = crop_and_flip(images_BCHW, shifts_2B, is_flipped_B, mode, fill_C)
    # Padding by the fill: what is above it lies at 0.
    offset_C11 = fill_C.int()[:, None, None]
    padded_BCHW = (
        functional.pad(images_BCHW.float(), (pad,) * 4, mode="reflect")
        if mode == "reflect"
        else functional.pad(images_BCHW.int() - offset_C11, (pad,) * 4) + offset_C11
    )
    for row in range(200):
        down, right = (int(shift) + pad for shift in shifts_2B[:, row])
        expected_CHW = padded_BCHW[row, :, down : down + height, right : right + width]
        expected_CHW = expected_CHW.flip(-1) if is_flipped_B[row] else expected_CHW
        assert torch.equal(changed_BCHW[row], expected_CHW.to(torch.uint8))


def test_many_images_are_gathered_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    images_BCHW = random_images(20, height=8, width=8)
    shifts_2B = draw_shifts(20, 3, seeded())
    is_flipped_B, fill_C = torch.arange(20) % 3 == 0, torch.zeros(3, dtype=torch.uint8)
    whole_BCHW = crop_and_flip(images_BCHW, shifts_2B, is_flipped_B, "reflect", fill_C)
    monkeypatch.setattr("training.augment.crops._PIXELS_AT_ONCE", 7 * 64)
    assert torch.equal(crop_and_flip(images_BCHW, shifts_2B, is_flipped_B, "reflect", fill_C), whole_BCHW)


def test_shifts_are_even_over_the_whole_range() -> None:
    shifts_2B = draw_shifts(9000, 1, seeded())
    places = torch.bincount(((shifts_2B[0] + 1) * 3 + shifts_2B[1] + 1), minlength=9)
    assert len(places) == 9
    # Five standard deviations about 1,000.
    assert int((places - 1000).abs().max()) < 150
    assert draw_shifts(5, 0, seeded()).tolist() == [[0] * 5] * 2


def _flips(
    flip: Flip, epoch: int = 0, *, ids_B: Tensor | None = None, flip_seed: int = 0, draw_seed: int = 0
) -> Tensor:
    ids_B = torch.arange(10_000) if ids_B is None else ids_B
    return draw_flips(ids_B, flip, flip_seed, Moment(epoch=epoch, epochs=10), seeded(draw_seed))


def test_random_flips_are_drawn_each_time_for_half_of_the_images() -> None:
    first_B, second_B = _flips(Flip.RANDOM), _flips(Flip.RANDOM, draw_seed=1)
    assert abs(int(first_B.sum()) - 5000) < 250
    assert abs(int((first_B ^ second_B).sum()) - 5000) < 250
    assert not bool(_flips(Flip.NONE).any())


def test_alternating_flips_start_with_half_of_the_images_and_turn_each_epoch() -> None:
    first_B = _flips(Flip.ALTERNATING)
    assert abs(int(first_B.sum()) - 5000) < 250
    for epoch in range(1, 6):
        flips_B = _flips(Flip.ALTERNATING, epoch, draw_seed=epoch)
        assert torch.equal(flips_B, ~first_B if epoch % 2 else first_B)


def test_alternating_flips_hang_on_number_and_seed_alone() -> None:
    ids_B = torch.randperm(10_000, generator=seeded())
    assert torch.equal(_flips(Flip.ALTERNATING, ids_B=ids_B), _flips(Flip.ALTERNATING)[ids_B])
    other_B = _flips(Flip.ALTERNATING, flip_seed=1)
    assert abs(int((other_B ^ _flips(Flip.ALTERNATING)).sum()) - 5000) < 250
    # Neighbours in number say nothing of each other, nor do numbers far apart.
    for step in (1, 2, 3, 256, 5000):
        first_B = _flips(Flip.ALTERNATING)
        assert abs(int((first_B[step:] ^ first_B[:-step]).sum()) - (10_000 - step) / 2) < 250


def test_the_coin_is_splitmix() -> None:
    # Reference words of SplitMix64 seeded with 0: 0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F.
    assert _flips(Flip.ALTERNATING, ids_B=torch.zeros(1, dtype=torch.int64), flip_seed=0).tolist() == [True]
    assert _flips(Flip.ALTERNATING, ids_B=torch.zeros(1, dtype=torch.int64), flip_seed=1).tolist() == [False]
    assert _flips(Flip.ALTERNATING, ids_B=torch.zeros(1, dtype=torch.int64), flip_seed=2).tolist() == [True]


def test_cutout_covers_a_square_about_any_pixel_with_the_fill() -> None:
    images_BCHW = torch.full((3000, 3, 8, 8), 200, dtype=torch.uint8)
    cut_BCHW = cut_out_randomly(images_BCHW, 4, torch.tensor([1, 2, 3], dtype=torch.uint8), seeded())
    is_cut_BHW = cut_BCHW[:, 0] == 1
    assert torch.equal(cut_BCHW[:, 1] == 2, is_cut_BHW)
    assert torch.equal(cut_BCHW[:, 2] == 3, is_cut_BHW)
    heights_B, widths_B = is_cut_BHW.any(2).sum(1), is_cut_BHW.any(1).sum(1)
    assert torch.equal(heights_B * widths_B, is_cut_BHW.sum((1, 2)))
    # Rows 0 to 7 as centres leave 2, 3, 4, 4, 4, 4, 4, 3 rows.
    heights = torch.bincount(heights_B, minlength=5)
    assert heights[:2].tolist() == [0, 0]
    assert abs(int(heights[2]) - 375) < 100
    assert abs(int(heights[3]) - 750) < 130

"""Random shifts: nothing is lost but what leaves the frame."""

import pytest
import torch

from training.augment.shift import shift_randomly


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_shift_gives_the_images_themselves() -> None:
    images_BCHW = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)
    assert shift_randomly(images_BCHW, 0, _generator()) is images_BCHW


@pytest.mark.parametrize("max_shift_px", [1, 2, 5])
def test_each_image_is_moved_as_a_whole(max_shift_px: int) -> None:
    rows, size = 400, 5
    images_BCHW = torch.randint(1, 256, (rows, 2, size, size), dtype=torch.uint8, generator=_generator())
    moved_BCHW = shift_randomly(images_BCHW, max_shift_px, _generator(1))
    assert moved_BCHW.shape == images_BCHW.shape
    assert moved_BCHW.dtype == torch.uint8
    padded_BCHW = torch.nn.functional.pad(images_BCHW, (max_shift_px,) * 4)
    windows = [(down, right) for down in range(2 * max_shift_px + 1) for right in range(2 * max_shift_px + 1)]
    seen = set()
    for row in range(rows):
        fits = [
            (down, right)
            for down, right in windows
            if torch.equal(padded_BCHW[row, :, down : down + size, right : right + size], moved_BCHW[row])
        ]
        assert fits
        seen.add(fits[0])
    if max_shift_px < size:
        assert len(seen) == len(windows) if max_shift_px <= 2 else len(seen) > 20


def test_the_generator_alone_decides() -> None:
    images_BCHW = torch.randint(0, 256, (8, 1, 6, 7), dtype=torch.uint8, generator=_generator())
    first, again, other = (shift_randomly(images_BCHW, 2, _generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)

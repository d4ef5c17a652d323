"""Data sets held on a device, and refused where there is no room."""

import numpy as np
import pytest
import torch
from labelled_images import make_data

from training.data import device
from training.data.device import bytes_on_device, hold_on_device
from training.data.images import LabelledImages
from training.errors import DataError


def check_held(data: LabelledImages, name: str) -> None:
    held = hold_on_device(data, name)
    assert held.images_NCHW.is_contiguous()
    assert held.images_NCHW.dtype == torch.uint8
    assert (held.labels_N.dtype, held.ids_N.dtype) == (torch.int64, torch.int64)
    assert np.array_equal(held.images_NCHW.cpu().numpy(), data.images_BHWC.transpose(0, 3, 1, 2))
    assert held.labels_N.tolist() == data.labels_B.tolist()
    assert held.ids_N.tolist() == data.ids_B.tolist()
    assert (len(held), held.classes, held.device.type) == (len(data), data.classes, name)


@pytest.mark.parametrize("chunk_bytes", [1, 100, 1 << 20])
def test_images_lie_channel_by_channel(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_CHUNK_BYTES", chunk_bytes)
    check_held(make_data([0, 1, 2, 0, 1], channels=3, first_id=7), "cpu")


@pytest.mark.gpu
def test_images_lie_on_the_gpu() -> None:
    check_held(make_data([0, 1, 2, 0, 1], channels=3, first_id=7), "cuda")


def test_no_images() -> None:
    check_held(make_data([]), "cpu")


def test_held_images_are_a_copy() -> None:
    data = make_data([0, 1])
    hold_on_device(data, "cpu").images_NCHW.zero_()
    assert data.images_BHWC.any()


def test_arrays_that_may_not_be_written() -> None:
    data = make_data([0, 1])
    for array in (data.images_BHWC, data.labels_B, data.ids_B):
        array.flags.writeable = False
    check_held(data, "cpu")


def test_bytes_are_counted() -> None:
    # Five images of 4x5x3, and two numbers of eight bytes each.
    assert bytes_on_device(make_data([0, 1, 2, 0, 1], channels=3)) == 5 * (60 + 16)


def test_device_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100, 3 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 20)
    message = (
        r"^5 images of \[H, W, C\] \[4, 5, 3\]: need 0\.00 GiB on cuda; 0\.00 GiB of 3\.00 GiB are free: take fewer"
    )
    with pytest.raises(DataError, match=message):
        hold_on_device(make_data([0, 1, 2, 0, 1], channels=3), "cuda")

"""A data set held whole, as uint8, on the device that trains."""
# Shapes: N images of the set, CHW image.

from dataclasses import dataclass

import torch
from torch import Tensor

from cascade_serve.core.arrays import ImageArray, IntArray
from training.data.images import LabelledImages
from training.errors import DataError

_CHUNK_BYTES = 64 << 20
"""Pixels that are put into the device's order at a time."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DeviceImages:
    """Labelled images on a device.

    Attributes:
        images_NCHW: uint8 [N, C, H, W], contiguous.
        labels_N: int64 [N], indices of ``classes``.
        ids_N: int64 [N], each row's number in the whole data set.
        classes: class names.
    """

    images_NCHW: Tensor
    labels_N: Tensor
    ids_N: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def device(self) -> torch.device:
        """Where the images lie."""
        return self.images_NCHW.device


def bytes_on_device(data: LabelledImages) -> int:
    """Give what a data set takes up on a device, in bytes."""
    return int(data.images_BHWC.nbytes + data.labels_B.nbytes + data.ids_B.nbytes)


def hold_on_device(data: LabelledImages, device: str | torch.device) -> DeviceImages:
    """Copy a data set to a device, a piece at a time: beside the set itself little memory is needed.

    Args:
        data: the images.
        device: such as ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        DataError: the device has no room for it.
    """
    device = torch.device(device)
    _check_room(data, device)
    rows, height, width, channels = data.images_BHWC.shape
    images_NCHW = torch.empty((rows, channels, height, width), dtype=torch.uint8, device=device)
    step = max(1, _CHUNK_BYTES // (height * width * channels))
    for start in range(0, rows, step):
        part_NHWC = _tensor(data.images_BHWC[start : start + step])
        images_NCHW[start : start + step] = part_NHWC.permute(0, 3, 1, 2).contiguous().to(device)
    return DeviceImages(
        images_NCHW=images_NCHW,
        labels_N=_tensor(data.labels_B).to(device),
        ids_N=_tensor(data.ids_B).to(device),
        classes=data.classes,
    )


def _tensor(array: ImageArray | IntArray) -> Tensor:
    # Torch warns of read-only arrays, such as mapped files.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _check_room(data: LabelledImages, device: torch.device) -> None:
    if device.type != "cuda":
        return
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    # What torch's allocator keeps for itself but doesn't use is free to us too.
    free_bytes += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    needed_bytes = bytes_on_device(data) + min(_CHUNK_BYTES, data.images_BHWC.nbytes)
    if needed_bytes > free_bytes:
        shape = list(data.images_BHWC.shape[1:])
        raise DataError(
            f"{len(data)} images of [H, W, C] {shape}: need {_gib(needed_bytes)} on {device}; "
            f"{_gib(free_bytes)} of {_gib(total_bytes)} are free: take fewer or smaller images"
        )


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 30):.2f} GiB"

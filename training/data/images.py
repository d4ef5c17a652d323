"""Labelled images in memory, and written as a folder."""
# Shapes: B rows, HWC image.

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from cascade_serve.core.arrays import ImageArray, IntArray
from training.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledImages:
    """A data set, or a part of one.

    Attributes:
        images_BHWC: uint8 [B, H, W, C]; never changed in place.
        labels_B: int64 [B], indices of ``classes``.
        ids_B: int64 [B], each row's number in the whole data set.
        classes: class names.
    """

    images_BHWC: ImageArray
    labels_B: IntArray
    ids_B: IntArray
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        lengths = (len(self.images_BHWC), len(self.labels_B), len(self.ids_B))
        if len(set(lengths)) != 1:
            raise DataError(f"images, labels, ids: got {lengths} rows; must be equally many")
        for name, array in (("labels", self.labels_B), ("ids", self.ids_B)):
            if array.ndim != 1 or array.dtype != np.int64:
                raise DataError(f"{name}: got {array.dtype} {list(array.shape)}; must be int64 [B]")
        if len(set(self.classes)) != len(self.classes):
            raise DataError(f"classes: got {list(self.classes)}; must be all different")
        if self.images_BHWC.ndim != 4 or self.images_BHWC.dtype != np.uint8:
            raise DataError(
                f"images: got {self.images_BHWC.dtype} {list(self.images_BHWC.shape)}; must be uint8 [B, H, W, C]"
            )
        if len(self) and not 0 <= self.labels_B.min() <= self.labels_B.max() < len(self.classes):
            raise DataError(
                f"labels: got {self.labels_B.min()}..{self.labels_B.max()}; must lie in 0..{len(self.classes) - 1}"
            )

    def __len__(self) -> int:
        return len(self.labels_B)

    def take(self, rows: IntArray) -> "LabelledImages":
        """Give some rows, in the order asked for."""
        return LabelledImages(
            images_BHWC=self.images_BHWC[rows],
            labels_B=self.labels_B[rows],
            ids_B=self.ids_B[rows],
            classes=self.classes,
        )

    def rows_of(self, ids: IntArray) -> IntArray:
        """Find the rows that hold some ids.

        Args:
            ids: int64 [S], in any order.

        Returns:
            int64 [S], rows in the order of the ids.

        Raises:
            DataError: an id is not here.
        """
        order_B = np.argsort(self.ids_B, kind="stable")
        sorted_B = self.ids_B[order_B]
        places = np.searchsorted(sorted_B, ids)
        is_missing = np.ones(len(ids), dtype=np.bool_)
        within = places < len(sorted_B)
        is_missing[within] = sorted_B[places[within]] != ids[within]
        if is_missing.any():
            missing = ", ".join(str(number) for number in ids[is_missing][:5])
            raise DataError(f"ids: got {is_missing.sum()} that these {len(self)} images don't have, such as {missing}")
        rows: IntArray = order_B[places].astype(np.int64)
        return rows

    @cached_property
    def sha256(self) -> str:
        """Fingerprint (hex) of class names, image shape, pixels, labels and ids, in order."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for array in (np.array(self.images_BHWC.shape, dtype="<i8"), self.images_BHWC):
            # The bytes themselves: tobytes would copy all pixels once more.
            digest.update(np.ascontiguousarray(array).ravel().view(np.uint8).data)
        for array in (self.labels_B, self.ids_B):
            digest.update(array.astype("<i8").tobytes())
        return digest.hexdigest()


def write_image_folder(data: LabelledImages, folder: Path) -> None:
    """Write images as ``<class>/<id>.png``, without loss.

    Args:
        data: grey or RGB images.
        folder: made where it is absent; files of the same names are overwritten.

    Raises:
        DataError: the folder can't be written, the images have other channels, or a class can't name a folder.
    """
    _check_writable(data)
    try:
        for image_HWC, label, row in zip(data.images_BHWC, data.labels_B, data.ids_B, strict=True):
            path = folder / data.classes[label] / f"{row:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image_HWC[..., 0] if image_HWC.shape[2] == 1 else image_HWC).save(path)
    except OSError as error:
        raise DataError(f"{error.filename or folder}: {error.strerror}") from error


def _check_writable(data: LabelledImages) -> None:
    channels = data.images_BHWC.shape[3]
    if channels not in (1, 3):
        raise DataError(f"images: got {channels} channels; must be 1 (grey) or 3 (RGB)")
    for name in data.classes:
        # Readers pass over hidden folders; a path would lead elsewhere.
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise DataError(f"classes: got {name!r}; must be the name of a folder that is not hidden")

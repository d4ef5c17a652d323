"""Labelled images in memory: where they come from, how they are split, and how they are written as a folder."""
# Shapes: B rows, HWC image.

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cascade_serve.core.arrays import ImageArray, IntArray
from training.errors import DataError

_DIGITS_WHITE = 16
"""Value of a wholly inked pixel in scikit-learn's digits."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledImages:
    """A data set, or a part of one.

    Attributes:
        images_BHWC: uint8 [B, H, W, C].
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

    @property
    def sha256(self) -> str:
        """Fingerprint (hex) of class names, image shape, pixels, labels and ids, in order."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for array in (np.array(self.images_BHWC.shape, dtype="<i8"), self.images_BHWC):
            digest.update(np.ascontiguousarray(array).tobytes())
        for array in (self.labels_B, self.ids_B):
            digest.update(array.astype("<i8").tobytes())
        return digest.hexdigest()


def load_digits() -> LabelledImages:
    """Load scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels that lie inside the package.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits" (UCI, 1998), its test part. Pixels
    count ink from 0 to 16 and are stretched to 0..255.

    Returns:
        uint8 [1797, 8, 8, 1] and labels 0..9.
    """
    from sklearn import datasets

    images_BHW, labels_B = datasets.load_digits(return_X_y=True)
    stretched_BHW = np.rint(images_BHW.reshape(-1, 8, 8) * (255 / _DIGITS_WHITE)).astype(np.uint8)
    return LabelledImages(
        images_BHWC=stretched_BHW[..., None],
        labels_B=labels_B.astype(np.int64),
        ids_B=np.arange(len(labels_B), dtype=np.int64),
        classes=tuple(str(digit) for digit in range(10)),
    )


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How many rows go where; what is left over goes to train.

    Attributes:
        calibration: rows that the plan is made on.
        test: rows that nothing is chosen on.
        seed: of the draw.
    """

    calibration: int
    test: int
    seed: int = 0

    def __post_init__(self) -> None:
        for field in ("calibration", "test"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: got {getattr(self, field)}; must be at least 1")


def split(data: LabelledImages, config: SplitConfig) -> Mapping[str, LabelledImages]:
    """Split a data set into disjoint parts with the classes in equal shares.

    Rows are shuffled, then dealt out class after class in the proportion of the sizes, so that no class differs from
    its share by more than a row or so.

    Args:
        data: the whole.
        config: the sizes.

    Returns:
        ``train``, ``calibration`` and ``test``; each in the order of the whole data set.

    Raises:
        DataError: nothing would be left to train on.
    """
    train = len(data) - config.calibration - config.test
    if train < 1:
        raise DataError(
            f"calibration + test: got {config.calibration} + {config.test}; must sum to under {len(data)}, all rows"
        )
    generator = np.random.default_rng(config.seed)
    shuffled_B = generator.permutation(len(data))
    by_class_B = shuffled_B[np.argsort(data.labels_B[shuffled_B], kind="stable")]
    names_B = _deal({"train": train, "calibration": config.calibration, "test": config.test})
    return {name: data.take(np.sort(by_class_B[names_B == name])) for name in ("train", "calibration", "test")}


def _deal(sizes: Mapping[str, int]) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    """Spread each name evenly over a sequence in which it stands as often as its size says."""
    # Each name claims evenly spaced places; sorting the claims interleaves them in proportion.
    places = np.concatenate([(np.arange(size) + 0.5) / size for size in sizes.values()])
    names = np.repeat(list(sizes), list(sizes.values()))
    dealt: np.ndarray[tuple[int], np.dtype[np.str_]] = names[np.argsort(places, kind="stable")]
    return dealt


def write_image_folder(data: LabelledImages, folder: Path) -> None:
    """Write images as ``<class>/<id>.png``, without loss.

    Args:
        data: grey or RGB images.
        folder: made where it is absent; files of the same names are overwritten.

    Raises:
        DataError: the folder can't be written.
    """
    try:
        for image_HWC, label, row in zip(data.images_BHWC, data.labels_B, data.ids_B, strict=True):
            path = folder / data.classes[label] / f"{row:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image_HWC[..., 0] if image_HWC.shape[2] == 1 else image_HWC).save(path)
    except OSError as error:
        raise DataError(f"{error.filename or folder}: {error.strerror}") from error

"""What every source of data gives, and how a user brings their own."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from cascade_serve.core.arrays import ImageArray, IntArray
from training.data.images import LabelledImages
from training.errors import DataError

LoadProgress = Callable[[str, int, int], None]
"""Called while a data set is read: what is being read, how many are done, of how many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedFile:
    """A file that was left out.

    Attributes:
        path: below the folder or archive that was read.
        reason: why.
    """

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ResizedFile:
    """A file whose image had another size than the data set.

    Attributes:
        path: below the folder or archive that was read.
        height, width: pixels that it had.
    """

    path: str
    height: int
    width: int


@dataclass(frozen=True, kw_only=True, eq=False)
class DataSet:
    """All of a data set, in memory.

    Attributes:
        train: what may be trained, searched and calibrated on.
        test: the set's own test part, where it has one; its ids don't occur in ``train``.
        groups_B: int64 [B], what each row of ``train`` shows, such as the number of a toy or a patient: rows of one
            group never come into different parts. None where each row stands for itself.
        skipped: files that were left out because the user said so.
        resized: files whose images were resized because the user said so.
    """

    train: LabelledImages
    test: LabelledImages | None = None
    groups_B: IntArray | None = None
    skipped: tuple[SkippedFile, ...] = ()
    resized: tuple[ResizedFile, ...] = ()

    def __post_init__(self) -> None:
        if len(self.train) == 0:
            raise DataError("train: got no images; must be at least one")
        if self.groups_B is not None and self.groups_B.shape != (len(self.train),):
            raise DataError(f"groups: got {list(self.groups_B.shape)}; must be one a row of train, {len(self.train)}")
        for name, part in (("train", self.train), ("test", self.test)):
            if part is not None and len(np.unique(part.ids_B)) != len(part):
                raise DataError(f"{name}: ids: got {len(np.unique(part.ids_B))} of {len(part)} rows; must be unique")
        if self.test is not None:
            self._check_test(self.train, self.test)

    @staticmethod
    def _check_test(ours: LabelledImages, theirs: LabelledImages) -> None:
        if theirs.classes != ours.classes:
            raise DataError(f"test: got classes {list(theirs.classes)}; must be those of train, {list(ours.classes)}")
        if theirs.images_BHWC.shape[1:] != ours.images_BHWC.shape[1:]:
            raise DataError(
                f"test: got images [H, W, C] {list(theirs.images_BHWC.shape[1:])}; "
                f"must be as in train, {list(ours.images_BHWC.shape[1:])}"
            )
        shared = np.intersect1d(ours.ids_B, theirs.ids_B)
        if len(shared):
            raise DataError(f"test: got {len(shared)} ids that train has too, such as {shared[0]}; must be disjoint")

    @cached_property
    def sha256(self) -> str:
        """Fingerprint (hex) of both parts."""
        parts = [self.train.sha256] if self.test is None else [self.train.sha256, self.test.sha256]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


class DataSource(Protocol):
    """Where a data set comes from: a frozen dataclass of the choices that it leaves, and one method.

    A user's own data set needs no more than these lines; registered, recipes and ``--set`` know it by its kind::

        @register_source
        @dataclass(frozen=True, kw_only=True, slots=True)
        class Stripes:
            kind: Literal["stripes"] = "stripes"
            vertical: bool = True

            def load(self, root: Path | None = None, *, progress: LoadProgress | None = None) -> DataSet:
                arrays = np.load(root / "stripes.npz")
                return DataSet(train=number_images(arrays["pixels"], arrays["labels"], classes=("thin", "wide")))
    """

    @property
    def kind(self) -> str:
        """Its name in ``training.data.sources``."""
        ...

    def load(self, root: Path | None = None, *, progress: LoadProgress | None = None) -> DataSet:
        """Read the whole data set.

        Args:
            root: where the user has put it; None for sources that need no files.
            progress: told how far the reading is.

        Raises:
            DataError: it can't be read; the message names the file.
        """
        ...


def number_images(
    images_BHWC: ImageArray, labels_B: IntArray, *, classes: tuple[str, ...], first_id: int = 0
) -> LabelledImages:
    """Number images from ``first_id`` on: uint8 [B, H, W, C], or [B, H, W] of grey ones, and whole numbers [B].

    Raises:
        DataError: they contradict each other.
    """
    labels = np.asarray(labels_B)
    if labels.dtype.kind not in "iu":
        raise DataError(f"labels: got {labels.dtype}; must be whole numbers")
    return LabelledImages(
        images_BHWC=images_BHWC[..., None] if images_BHWC.ndim == 3 else images_BHWC,
        labels_B=labels.astype(np.int64),
        ids_B=np.arange(first_id, first_id + len(labels), dtype=np.int64),
        classes=classes,
    )

"""Scikit-learn's handwritten digits, the data set that needs no download."""
# Shapes: B rows, P columns of the table (pixels, then the label), H height, W width.

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from training.data.data_set import DataSet, LoadProgress
from training.data.images import LabelledImages
from training.errors import DataError

_DIGITS_WHITE = 16
"""Value of a wholly inked pixel in scikit-learn's digits."""


def load_digits() -> LabelledImages:
    """Load scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels that lie inside the package.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits" (UCI, 1998), its test part. Pixels
    count ink from 0 to 16 and are stretched to 0..255.

    Returns:
        uint8 [1797, 8, 8, 1] and labels 0..9.

    Raises:
        DataError: scikit-learn is absent, or has moved its file.
    """
    table_BP = np.loadtxt(_find_file(), delimiter=",")
    images_BHW, labels_B = table_BP[:, :-1].reshape(-1, 8, 8), table_BP[:, -1].astype(np.int64)
    stretched_BHW = np.rint(images_BHW * (255 / _DIGITS_WHITE)).astype(np.uint8)
    return LabelledImages(
        images_BHWC=stretched_BHW[..., None],
        labels_B=labels_B,
        ids_B=np.arange(len(labels_B), dtype=np.int64),
        classes=tuple(str(digit) for digit in range(10)),
    )


def _find_file() -> Path:
    """Find the table inside scikit-learn without importing it, which takes seconds."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("digits: scikit-learn is not installed; install cascade-serve[train]")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not file.is_file():
        raise DataError(f"{file}: got no such file; this version of scikit-learn keeps its digits elsewhere")
    return file


@dataclass(frozen=True, kw_only=True, slots=True)
class DigitsSource:
    """The digits as a source of data; they have no test part of their own."""

    kind: Literal["digits"] = "digits"

    def load(self, root: Path | None = None, *, progress: LoadProgress | None = None) -> DataSet:
        """Load them.

        Args:
            root: must be None, because they need no files.
            progress: told once, at the end.

        Raises:
            DataError: a folder was given.
        """
        if root is not None:
            raise DataError(f"data: got {root}; digits lie inside scikit-learn and take no folder")
        digits = load_digits()
        if progress is not None:
            progress("digits", len(digits), len(digits))
        return DataSet(train=digits)

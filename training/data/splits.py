"""Disjoint, seeded, stratified parts of a data set."""
# Shapes: B rows.

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from training.data.images import LabelledImages
from training.errors import DataError


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

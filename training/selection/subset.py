"""A chosen part of a data set, on disk and back: what ``--subset FILE`` takes."""
# Shapes: N images of the data set, S images of the subset.

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import JsonValue

from cascade_serve.core.arrays import FloatArray, IntArray
from training.data.images import LabelledImages
from training.errors import SelectionError
from training.selection.records import read_record, write_record
from training.selection.timing import SelectionSeconds

_ID_LIMIT = 1 << 63


@dataclass(frozen=True, kw_only=True, slots=True)
class Subset:
    """Which images were chosen, of what, by whom and at what cost.

    Attributes:
        ids: the images' ids in the data set, most wanted first; in active learning, in the order labelled.
        score: what they were chosen by.
        fraction: of the data set, as asked for, above 0 and at most 1.
        seed: of the proxy and of the choice.
        data_sha256: fingerprint of the data set that they were chosen from.
        proxy: description of the proxy; None where none was trained.
        proxy_evaluations: single images that the proxies were trained on.
        class_balance: whether each class gave the same fraction.
        layer: name of the classifier layer whose input ``k_center`` measured distances by; None is the proxy's last
            ``nn.Linear``, or another score.
        seconds: of each phase; in active learning over all rounds up to this subset.
        schema_version: of the file.
    """

    ids: tuple[int, ...]
    score: str
    fraction: float
    seed: int
    data_sha256: str
    proxy: Mapping[str, JsonValue] | None = None
    proxy_evaluations: int = 0
    class_balance: bool = False
    layer: str | None = None
    seconds: SelectionSeconds = field(default_factory=SelectionSeconds)
    schema_version: Literal[1] = 1

    def __post_init__(self) -> None:
        if not self.ids or len(set(self.ids)) != len(self.ids):
            raise ValueError(f"ids: got {len(self.ids)}, {len(set(self.ids))} of them different; must be unique")
        if not -_ID_LIMIT <= min(self.ids) <= max(self.ids) < _ID_LIMIT:
            raise ValueError(f"ids: got {min(self.ids)}..{max(self.ids)}; must be 64-bit integers")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction: got {self.fraction}; must be above 0 and at most 1")

    def __len__(self) -> int:
        return len(self.ids)

    def rows_in(self, data: LabelledImages) -> IntArray:
        """Find the subset's rows in the data set that it was chosen from, int64 [S], in the subset's order.

        Raises:
            SelectionError: these are other data.
            DataError: an id is not in them: the subset's file was changed by hand.
        """
        if data.sha256 != self.data_sha256:
            raise SelectionError(
                f"subset: data_sha256: got data {data.sha256[:12]}…; must be {self.data_sha256[:12]}…, "
                "the data that it was chosen from"
            )
        return data.rows_of(np.array(self.ids, dtype=np.int64))

    def apply(self, data: LabelledImages) -> LabelledImages:
        """Take the subset out of the data set, in the data set's order.

        Raises:
            SelectionError: these are other data than it was chosen from.
        """
        return data.take(np.sort(self.rows_in(data)))

    def ranking_scores(self, data: LabelledImages) -> FloatArray:
        """Give the order of the subset as scores, to order a data schedule by in place of chance.

        Args:
            data: what the subset was chosen from, N images.

        Returns:
            float32 [N], higher is kept first: N for the most wanted image, then N - 1 and so on; all images outside the
            subset get 0. A subset of fraction 1 is a full ranking, with ties drawn already.

        Raises:
            SelectionError: these are other data.
        """
        scores_N = np.zeros(len(data), dtype=np.float32)
        scores_N[self.rows_in(data)] = np.arange(len(data), len(data) - len(self), -1)
        return scores_N


def write_subset(subset: Subset, path: Path) -> None:
    """Write a subset as JSON; an existing file is replaced.

    Raises:
        SelectionError: the file can't be written.
    """
    write_record(subset, path, indent=None)


def read_subset(path: Path) -> Subset:
    """Read a subset back.

    Raises:
        SelectionError: the file can't be read, or is no subset; the message names file and field.
    """
    return read_record(Subset, path)

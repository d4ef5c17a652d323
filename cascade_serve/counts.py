"""What metrics are counted in: notes of what was told, and histograms, both guarded by their owner's lock."""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

MOST_NOTES = 256
"""Of one owner, uncounted."""


class Notes:
    """What was told and is not counted yet. Telling takes no lock; the owner's lock guards :meth:`count`."""

    def __init__(self) -> None:
        self._notes: deque[tuple[Callable[..., None], tuple[object, ...]]] = deque()

    def tell(self, count: Callable[..., None], *what: object) -> bool:
        """Note down what ``count`` shall be called with; tells whether it is time to count."""
        self._notes.append((count, what))
        return len(self._notes) >= MOST_NOTES

    def count(self) -> None:
        """Count all that was told."""
        notes = self._notes
        while notes:
            count, what = notes.popleft()
            count(*what)


class Histogram:
    """Bucket counts of one metric over G groups; the owner's lock guards it.

    Plain lists: for the few rows of a batch they are several times quicker than numpy's fixed cost a call.
    """

    def __init__(self, buckets: Sequence[float], groups: int = 1) -> None:
        self._buckets = tuple(buckets)
        self._counts: list[list[int]] = []
        self._sums: list[float] = []
        self.grow(groups)

    def grow(self, groups: int) -> None:
        """Make room for more groups."""
        for _ in range(len(self._sums), groups):
            self._counts.append([0] * (len(self._buckets) + 1))
            self._sums.append(0.0)

    def observe(self, value: float) -> None:
        """Count one value in group 0."""
        self._counts[0][bisect_left(self._buckets, value)] += 1
        self._sums[0] += value

    def observe_rows(self, values: Sequence[float], groups: Iterable[int]) -> None:
        """Count many values, each in its group."""
        buckets, counts, sums = self._buckets, self._counts, self._sums
        for value, group in zip(values, groups, strict=False):
            counts[group][bisect_left(buckets, value)] += 1
            sums[group] += value

    def write(self, family: Metric, *labels: str, group: int = 0) -> None:
        """Add one group as a sample."""
        assert isinstance(family, HistogramMetricFamily)
        names = [*map(floatToGoString, self._buckets), "+Inf"]
        family.add_metric(labels, list(zip(names, accumulate(self._counts[group]), strict=True)), self._sums[group])

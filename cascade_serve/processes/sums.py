"""Counts of several processes added up so that no sum falls when one of them ends and another takes its place."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from cascade_serve.metrics import UNKNOWN, empty_families, process_families
from cascade_serve.rpc.tally import Tally


class Series(NamedTuple):
    """One line of a scrape.

    Attributes:
        family: its metric, such as ``cascade_exits``.
        sample: the line's name, such as ``cascade_exits_total``.
        labels: names and values, in the metric's order.
    """

    family: str
    sample: str
    labels: tuple[tuple[str, str], ...]


Scrape = dict[Series, float]
"""What one process counts."""
_Key = TypeVar("_Key")
_Count = TypeVar("_Count")


class Ledger(Generic[_Key, _Count]):
    """The latest counts of each process, and what those that have ended had counted. Not thread-safe.

    Args:
        add: puts two counts under one key together.
        is_kept: whether a count outlives its process.
        is_known: given a key and all keys of the living, whether a count of the dead is still shown; one that is not
            shown is forgotten, as a cascade's that was unloaded.
    """

    def __init__(
        self,
        add: Callable[[_Key, _Count, _Count], _Count],
        *,
        is_kept: Callable[[_Key], bool],
        is_known: Callable[[_Key, "set[_Key]"], bool],
    ) -> None:
        self._add = add
        self._is_kept = is_kept
        self._is_known = is_known
        self._living: dict[int, dict[_Key, _Count]] = {}
        self._ended: dict[_Key, _Count] = {}

    def begin(self, process: int) -> None:
        """A process, by a number that is never used again, will be counted."""
        self._living[process] = {}

    def update(self, process: int, counts: dict[_Key, _Count]) -> None:
        """Take a process's counts in place of its earlier ones; those of one that has ended come too late."""
        if process in self._living:
            self._living[process] = counts

    def end(self, process: int) -> None:
        """A process has ended: what it had counted last is kept."""
        counts = self._living.pop(process, {})
        self._merge(self._ended, {key: count for key, count in counts.items() if self._is_kept(key)})

    def total(self) -> dict[_Key, _Count]:
        """Add up the living and the dead."""
        total: dict[_Key, _Count] = {}
        for counts in self._living.values():
            self._merge(total, counts)
        if total:
            known = set(total)
            self._ended = {key: count for key, count in self._ended.items() if self._is_known(key, known)}
        self._merge(total, self._ended)
        return total

    def _merge(self, total: dict[_Key, _Count], counts: Mapping[_Key, _Count]) -> None:
        for key, count in counts.items():
            total[key] = self._add(key, total[key], count) if key in total else count


def scrape_ledger() -> Ledger[Series, float]:
    """Make a ledger of metrics: counters and histograms add up and outlive their process, gauges don't."""
    gauges = {name for name, family in empty_families().items() if family.type == "gauge"}

    def is_known(series: Series, living: set[Series]) -> bool:
        cascade = _cascade(series)
        return cascade == UNKNOWN or cascade in {_cascade(one) for one in living}

    return Ledger(_add_samples, is_kept=lambda series: series.family not in gauges, is_known=is_known)


def _add_samples(series: Series, one: float, other: float) -> float:
    # A swap is over when the last process has made it. Of the other gauges, rows in flight, the sum is what there is.
    return min(one, other) if series.family == "cascade_bundle_version" else one + other


def _cascade(series: Series) -> str:
    return dict(series.labels).get("cascade", UNKNOWN)


def tally_ledger() -> Ledger[str, Tally]:
    """Make a ledger of the statistics call's counts, by cascade or member and version."""
    return Ledger(_add_tallies, is_kept=lambda _: True, is_known=lambda key, living: key in living)


def _add_tallies(_key: str, one: Tally, other: Tally) -> Tally:
    return {
        field: max(one.get(field, 0), other.get(field, 0))
        if field.startswith("last_")
        else one.get(field, 0) + other.get(field, 0)
        for field in {**one, **other}
    }


def read_scrape(families: Iterable[Metric]) -> Scrape:
    """Take the samples out of metric families."""
    return {
        Series(family.name, sample.name, tuple(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def pack_scrape(scrape: Scrape) -> list[Any]:
    """Make JSON of a scrape."""
    return [[series.family, series.sample, series.labels, value] for series, value in scrape.items()]


def unpack_scrape(packed: list[Any]) -> Scrape:
    """Read what :func:`pack_scrape` wrote."""
    return {
        Series(family, sample, tuple((name, text) for name, text in labels)): value
        for family, sample, labels, value in packed
    }


class SummedMetrics(Collector):
    """The metrics of all processes together, for one scrape.

    Args:
        gather: asks every process, and gives the sums.
        count: gives the processes that answer requests, and how often one was started anew.
    """

    def __init__(self, gather: Callable[[], Scrape], count: Callable[[], tuple[int, int]]) -> None:
        self._gather = gather
        self._count = count

    def describe(self) -> Iterable[Metric]:
        """Name the families without asking anybody."""
        return [*empty_families().values(), *process_families(0, 0)]

    def collect(self) -> Iterable[Metric]:
        """Give all families with their samples."""
        families = empty_families()
        for series, value in self._gather().items():
            families[series.family].add_sample(series.sample, dict(series.labels), value)
        return [*families.values(), *process_families(*self._count())]

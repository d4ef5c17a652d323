"""The exhaustive search: the Pareto front of accuracy over mean cost, of all orders of members and thresholds.

Source: Wang et al., "Wisdom of Committees" (ICLR 2022, arXiv 2012.01988), sections 4 and 5, search subsets and
thresholds exhaustively. What makes it quick here: the exits and hits of all threshold settings of an order are
cumulative sums of one joint histogram of its gates' grid codes, and orders with the same beginning share theirs.
"""
# Shapes: N rows, T thresholds of a gate; settings have one axis a gate, [T1], [T1, T2], [T1, T2, T3].

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cascade_serve.core.arrays import BoolArray, FloatArray, IntArray
from cascade_serve.core.cost import Cost
from cascade_serve.planner.committee import Committee, Gate, Gates
from cascade_serve.planner.running import NUM_THRESHOLDS, Prefix, RunningPredictions

CostArray = NDArray[np.float64]

_RADIX = NUM_THRESHOLDS + 1
MAX_STAGES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What every policy must keep to.

    Attributes:
        max_members: stages of a policy, 1 to ``MAX_STAGES``.
        max_flops: worst case per image; None is no cap. Caps are in FLOPs whatever the cost.
        mean_flops: mean per image over the calibration rows; None is no cap.
    """

    max_members: int = MAX_STAGES
    max_flops: int | None = None
    mean_flops: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.max_members <= MAX_STAGES:
            raise ValueError(f"max_members: got {self.max_members}; must be between 1 and {MAX_STAGES}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A policy that the search found, with its estimate over the rows searched.

    Attributes:
        gates: its stages.
        correct: rows it gets right.
        mean_cost: per row: FLOPs, or seconds.
    """

    gates: Gates
    correct: int
    mean_cost: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chain:
    """A prefix of members that all have a gate, and the sums over all settings of their thresholds.

    Attributes:
        prefix: its members.
        key_N: mixed-radix joint code of its gates, per row.
        grids: thresholds of each gate.
        hits: rows that exit at one of its gates and are right.
        spent: cost of all rows up to the last gate, in total, in each unit that the search counts in.
        deferred: rows that pass its last gate.
        worst_flops: sum of its members.
    """

    prefix: Prefix
    key_N: NDArray[np.intp]
    grids: tuple[FloatArray, ...]
    hits: IntArray
    spent: tuple[CostArray, ...]
    deferred: IntArray
    worst_flops: int


class Search:
    """One search over all orders, for one pair of rules.

    Args:
        committee: the members; where ``cost`` is seconds, each one's must be known.
        running: what every prefix of them predicts.
        limits: on every policy.
        cost: what is kept small.
    """

    def __init__(
        self, committee: Committee, running: RunningPredictions, limits: Limits, cost: Cost = Cost.FLOPS
    ) -> None:
        self._flops = committee.flops
        # What is kept small stands first, what has a cap on its mean last; mostly they are the same.
        self._units = [committee.costs(cost)]
        if cost is not Cost.FLOPS and limits.mean_flops is not None:
            self._units.append(committee.costs(Cost.FLOPS))
        self._rows = committee.num_rows
        self._running = running
        self._limits = limits
        self._front = _Front()

    def run(self, advance: Callable[[], None]) -> list[Candidate]:
        """Search.

        Args:
            advance: called once for every first member.

        Returns:
            the front, from cheap to dear; each is more right than the one before.
        """
        root = _Chain(
            prefix=(),
            key_N=np.zeros(self._rows, dtype=np.intp),
            grids=(),
            hits=np.zeros((), dtype=np.int64),
            spent=tuple(np.zeros((), dtype=np.float64) for _ in self._units),
            deferred=np.full((), self._rows, dtype=np.int64),
            worst_flops=0,
        )
        for member in range(len(self._flops)):
            self._offer(root, member)
        for member in range(len(self._flops)):
            self._descend(root, member)
            advance()
        return self._front.candidates(self._rows)

    def _descend(self, chain: _Chain, member: int) -> None:
        """Let a member have a gate after the chain, and every other one the last word after it."""
        if len(chain.prefix) + 1 >= self._limits.max_members or not self._fits(chain, member):
            return
        grown = self._grow(chain, member)
        others = [other for other in range(len(self._flops)) if other not in grown.prefix]
        for other in others:
            self._offer(grown, other)
        for other in others:
            self._descend(grown, other)

    def _fits(self, chain: _Chain, member: int) -> bool:
        cap = self._limits.max_flops
        return cap is None or chain.worst_flops + self._flops[member] <= cap

    def _grow(self, chain: _Chain, member: int) -> _Chain:
        """Add a gate: one axis more on every sum."""
        prefix = (*chain.prefix, member)
        sureness = self._running.sureness(prefix)
        grids = (*chain.grids, sureness.thresholds_T)
        key_N = chain.key_N * _RADIX + sureness.codes_N
        return _Chain(
            prefix=prefix,
            key_N=key_N,
            grids=grids,
            hits=chain.hits[..., None] + _exits(_histogram(key_N, grids, self._running.correct(prefix)), grids),
            spent=tuple(spent[..., None] for spent in self._spend(chain, member)),
            deferred=_deferred(_histogram(key_N, grids, None), grids),
            worst_flops=chain.worst_flops + self._flops[member],
        )

    def _spend(self, chain: _Chain, member: int) -> tuple[CostArray, ...]:
        """Add a member's cost for the rows that come to it."""
        pairs = zip(chain.spent, self._units, strict=True)
        return tuple(spent + chain.deferred * costs[member] for spent, costs in pairs)

    def _offer(self, chain: _Chain, member: int) -> None:
        """Let a member have the last word after the chain, and offer all settings to the front."""
        if not self._fits(chain, member):
            return
        last_N = self._running.correct((*chain.prefix, member))
        hits = chain.hits + _deferred(_histogram(chain.key_N, chain.grids, last_N), chain.grids)
        spent = self._spend(chain, member)
        cap = self._limits.mean_flops
        if cap is not None:
            hits = np.where(spent[-1] <= cap * self._rows, hits, -1)
        cost = np.broadcast_to(spent[0], hits.shape)
        self._front.offer((*chain.prefix, member), chain.grids, hits.ravel(), cost.ravel())


def _histogram(key_N: NDArray[np.intp], grids: tuple[FloatArray, ...], chosen_N: BoolArray | None) -> IntArray:
    """Count rows by joint code, [17] a gate; only the chosen ones where given."""
    kept = key_N if chosen_N is None else key_N[chosen_N]
    return np.bincount(kept, minlength=_RADIX ** len(grids)).reshape((_RADIX,) * len(grids))


def _settings(grids: tuple[FloatArray, ...]) -> tuple[slice, ...]:
    """Cut a sum over all codes down to the thresholds that the gates have."""
    return tuple(slice(len(thresholds_T)) for thresholds_T in grids)


def _deferred(histogram: IntArray, grids: tuple[FloatArray, ...]) -> IntArray:
    """Sum over the rows that reach no gate's threshold, for all settings: code <= j along every axis."""
    for axis in range(histogram.ndim):
        histogram = histogram.cumsum(axis=axis)
    return histogram[_settings(grids)]


def _exits(histogram: IntArray, grids: tuple[FloatArray, ...]) -> IntArray:
    """Sum over the rows that exit at the last gate, for all settings: code <= j, and code > j along the last axis."""
    for axis in range(histogram.ndim - 1):
        histogram = histogram.cumsum(axis=axis)
    upto = histogram.cumsum(axis=-1)
    exits: IntArray = (upto[..., -1:] - upto)[_settings(grids)]
    return exits


class _Front:
    """The undominated settings seen so far: ascending in cost, and strictly so in hits."""

    def __init__(self) -> None:
        # The first entry is dearer than nothing and never right, so that every setting has one at most as dear.
        self._cost: CostArray = np.array([-np.inf])
        self._hits: IntArray = np.array([-1], dtype=np.int64)
        self._order: IntArray = np.array([-1], dtype=np.int64)
        self._setting: IntArray = np.array([-1], dtype=np.int64)
        self._orders: list[tuple[Prefix, tuple[FloatArray, ...]]] = []

    def offer(self, order: Prefix, grids: tuple[FloatArray, ...], hits: IntArray, cost: CostArray) -> None:
        """Take what is not dominated.

        Args:
            order: the members.
            grids: thresholds of all but the last.
            hits: right rows of each setting, flat in C order; -1 for what must not be taken.
            cost: total cost of each setting.
        """
        cheaper = np.searchsorted(self._cost, cost, side="right") - 1
        better = np.flatnonzero(hits > self._hits[cheaper])
        if len(better) == 0:
            return
        cost = np.concatenate([self._cost, cost[better]])
        hits = np.concatenate([self._hits, hits[better]])
        by_cost = np.lexsort((-hits, cost))
        best = np.maximum.accumulate(hits[by_cost])
        kept = by_cost[np.flatnonzero(np.diff(best, prepend=-2) > 0)]
        self._cost, self._hits = cost[kept], hits[kept]
        self._order = np.concatenate([self._order, np.full(len(better), len(self._orders))])[kept]
        self._setting = np.concatenate([self._setting, better])[kept]
        self._orders.append((order, grids))

    def candidates(self, rows: int) -> list[Candidate]:
        """Spell the front out, from cheap to dear.

        Args:
            rows: that hits and costs were summed over.
        """
        return [
            Candidate(gates=_gates(self._orders[order], setting), correct=hits, mean_cost=cost / rows)
            for order, setting, hits, cost in zip(
                self._order.tolist()[1:],
                self._setting.tolist()[1:],
                self._hits.tolist()[1:],
                self._cost.tolist()[1:],
                strict=True,
            )
        ]


def _gates(searched: tuple[Prefix, tuple[FloatArray, ...]], setting: int) -> Gates:
    """Read a flat index over an order's settings back into thresholds."""
    order, grids = searched
    positions = np.unravel_index(setting, tuple(len(thresholds_T) for thresholds_T in grids)) if grids else ()
    thresholds = [float(str(thresholds_T[position])) for thresholds_T, position in zip(grids, positions, strict=True)]
    gated = [Gate(member=member, threshold=value) for member, value in zip(order, thresholds, strict=False)]
    return (*gated, Gate(member=order[-1]))

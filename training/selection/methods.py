"""What a subset may be chosen by, as types: scores that see labels can't be put where there are none.

Active learning takes an :data:`ActiveMethod`; a core-set takes any :data:`CoreSetMethod`. Forgetting events are of the
second kind only, so a type checker refuses them for active learning, and :func:`find_active_method` does when the name
comes from a command line.

A score of one's own is a few lines::

    def second_best(probabilities_NK: FloatArray) -> FloatArray:
        return np.sort(probabilities_NK, axis=1)[:, -2]

    register_score(LabelFreeScore(name="second_best", rate=second_best))
"""
# Shapes: N images of the pool, B rows of a batch, K classes.

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from cascade_serve.core.arrays import FloatArray, IntArray
from training.errors import SelectionError
from training.selection.forgetting import ForgettingMeter
from training.selection.scores import entropy, least_confidence, margin


class ScoreMeter(Protocol):
    """Watches a proxy's training, as an observer of the loop's batches, and scores its images afterwards."""

    def observe(self, ids_B: Tensor, losses_B: Tensor, correct_B: Tensor) -> None:
        """Hear of a trained batch: ids int64 [B], unweighted losses float32 [B], right or not bool [B]."""
        ...

    def scores(self) -> FloatArray:
        """Give float32 [N], higher is kept first, in the order of the ids that it was made for."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed training needs; tensors and plain values only."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up such a state."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelFreeScore:
    """A score of unlabelled images.

    Attributes:
        name: what it is called by.
        rate: from the proxy's class probabilities, float32 [N, K], to scores, float32 [N]; higher is kept first.
    """

    name: str
    rate: Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelUsingScore:
    """A score that is read off the training on labels; for core-sets alone.

    Attributes:
        name: what it is called by.
        make_meter: from the training images' ids, int64 [N], to what watches their training.
    """

    name: str
    make_meter: Callable[[IntArray], ScoreMeter]


@dataclass(frozen=True, kw_only=True, slots=True)
class KCenter:
    """Greedy k-center on the proxy's features; label-free.

    Attributes:
        start_share: share of the pool that a core-set begins with at random; at least one image. The default is the
            2 % that active learning starts with, too.
    """

    start_share: float = 0.02

    def __post_init__(self) -> None:
        if not 0 <= self.start_share <= 1:
            raise ValueError(f"start_share: got {self.start_share}; must be in 0..1")

    @property
    def name(self) -> str:
        """What it is called by."""
        return "k_center"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ccs:
    """Coverage-centric selection over the strata of another score.

    Attributes:
        base: name of that score, label-free or label-using.
        hard_share: β, share of the pool that is dropped as too hard, in [0, 1). Zheng et al. tune it, from 0 where
            half or more is kept to 0.3 where a tenth is.
        num_strata: bins of equal width.
    """

    base: str = "forgetting_events"
    hard_share: float = 0.1
    num_strata: int = 50

    def __post_init__(self) -> None:
        if not 0 <= self.hard_share < 1:
            raise ValueError(f"hard_share: got {self.hard_share}; must be at least 0 and under 1")
        if self.num_strata < 1:
            raise ValueError(f"num_strata: got {self.num_strata}; must be at least 1")

    @property
    def name(self) -> str:
        """What it is called by."""
        return "ccs"


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomChoice:
    """The control: no proxy is trained."""

    @property
    def name(self) -> str:
        """What it is called by."""
        return "random"


Score: TypeAlias = LabelFreeScore | LabelUsingScore
ActiveMethod: TypeAlias = LabelFreeScore | KCenter | RandomChoice
CoreSetMethod: TypeAlias = LabelFreeScore | LabelUsingScore | KCenter | Ccs | RandomChoice

LEAST_CONFIDENCE = LabelFreeScore(name="least_confidence", rate=least_confidence)
ENTROPY = LabelFreeScore(name="entropy", rate=entropy)
MARGIN = LabelFreeScore(name="margin", rate=margin)
FORGETTING_EVENTS = LabelUsingScore(name="forgetting_events", make_meter=ForgettingMeter)

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_SCORES: dict[str, Score] = {score.name: score for score in (LEAST_CONFIDENCE, ENTROPY, MARGIN, FORGETTING_EVENTS)}
_METHODS: tuple[KCenter | Ccs | RandomChoice, ...] = (KCenter(), Ccs(), RandomChoice())


def register_score(score: Score) -> None:
    """Make a score known by its name, to the command line too.

    Raises:
        SelectionError: the name is taken, or none that a command line and a folder take.
    """
    if _NAME.fullmatch(score.name) is None:
        raise SelectionError(f"score: got {score.name!r}; must be lower-case letters, digits, - and _")
    if score.name in method_names():
        raise SelectionError(f"score: {score.name!r} is taken; must be a new name")
    _SCORES[score.name] = score


def method_names() -> tuple[str, ...]:
    """Name all that a subset may be chosen by: the scores, registered ones too, then k_center, ccs and random."""
    return (*_SCORES, *(method.name for method in _METHODS))


def find_score(name: str) -> Score:
    """Look up a score by name.

    Raises:
        SelectionError: there is none of that name.
    """
    if name not in _SCORES:
        raise SelectionError(f"score: got {name!r}; must be one of {', '.join(_SCORES)}")
    return _SCORES[name]


def find_core_set_method(name: str, *, k_center: KCenter | None = None, ccs: Ccs | None = None) -> CoreSetMethod:
    """Look up a method of core-set selection by name.

    Args:
        name: one of :func:`method_names`.
        k_center, ccs: the settings to use where the name is theirs.

    Raises:
        SelectionError: there is none of that name.
    """
    if name in _SCORES:
        return _SCORES[name]
    match name:
        case "k_center":
            return k_center or KCenter()
        case "ccs":
            return ccs or Ccs()
        case "random":
            return RandomChoice()
        case _:
            raise SelectionError(f"score: got {name!r}; must be one of {', '.join(method_names())}")


def find_active_method(name: str) -> ActiveMethod:
    """Look up a method of active learning by name.

    Raises:
        SelectionError: there is none of that name, or it needs labels that the pool doesn't have.
    """
    return require_active(find_core_set_method(name))


def require_active(method: CoreSetMethod) -> ActiveMethod:
    """Give a method back if it needs no labels.

    Raises:
        SelectionError: it does.
    """
    if isinstance(method, LabelFreeScore | KCenter | RandomChoice):
        return method
    known = [score.name for score in _SCORES.values() if isinstance(score, LabelFreeScore)]
    raise SelectionError(
        f"score: got {method.name!r}, which uses labels; active learning takes {', '.join(known)}, k_center, random"
    )

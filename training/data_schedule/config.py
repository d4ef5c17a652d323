"""Data schedules as configuration, and as the short text that the command line takes.

Source: Sanderson and Kalganova, "Maintaining Performance with Less Data" (arXiv 2208.02007), whose three schedules
train each epoch on a part of the data; and Qin et al., "InfoBatch" (ICLR 2024, arXiv 2303.04947).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field


class CutMode(StrEnum):
    """Which cuts of the data an epoch trains on."""

    CUMULATIVE = "cumulative"
    """The epochs lie in as many sections as there are cuts; section k trains on the first k."""
    ROTATE = "rotate"
    """One cut an epoch, each in its turn."""
    LEAVE_ONE_OUT = "leave_one_out"
    """All but one, each left out in its turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AllData:
    """Every epoch trains on everything.

    Attributes:
        kind: tells the schedules apart where they are written as JSON.
    """

    kind: Literal["none"] = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataStep:
    """A fraction of the data in the first epochs, everything after (arXiv 2208.02007, Data Step).

    Attributes:
        kind: tells the schedules apart where they are written as JSON.
        fraction: of the data, above 0 and under 1; rounded to whole images, halves up, and never under one.
        share: of the epochs that see only the fraction, above 0 and under 1; rounded to whole epochs, halves up.
        fixed: one draw for the whole run; otherwise what is left out is drawn anew each epoch.
        score: name of the selection score whose highest images are kept; None keeps by chance.
    """

    kind: Literal["step"] = "step"
    fraction: float = 0.5
    share: float = 0.5
    fixed: bool = False
    score: str | None = None

    def __post_init__(self) -> None:
        _check_between_0_and_1("fraction", self.fraction)
        _check_between_0_and_1("share", self.share)
        _check_score(self.score)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataIncrement:
    """A fraction that grows by the same amount each epoch, up to everything (arXiv 2208.02007, Data Increment).

    Attributes:
        kind: tells the schedules apart where they are written as JSON.
        fraction: what it grows from, above 0 and under 1: epoch e of E, counted from 1, trains on fraction +
            (1 - fraction) e / E of the data, rounded to whole images, halves up, and never under one. The mean is
            (1 + fraction) / 2 and, because the last epoch sees everything, (1 - fraction) / 2E more.
        fixed: one draw for the whole run, of which each epoch sees more; otherwise each epoch has its own.
        score: name of the selection score whose highest images are kept; None keeps by chance.
    """

    kind: Literal["increment"] = "increment"
    fraction: float = 0.5
    fixed: bool = False
    score: str | None = None

    def __post_init__(self) -> None:
        _check_between_0_and_1("fraction", self.fraction)
        _check_score(self.score)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataCut:
    """The data in equal cuts, of which an epoch sees some (arXiv 2208.02007, Data Cut; reconstructed).

    The source leaves open which; with n cuts that divide images and epochs, the modes train on (n + 1) / 2n, 1 / n and
    (n - 1) / n of the evaluations. Otherwise cuts and sections differ by at most one image and one epoch.

    Attributes:
        kind: tells the schedules apart where they are written as JSON.
        cuts: n, at least 2.
        mode: which ones an epoch sees.
        fixed: the data is cut once; otherwise it is cut anew each epoch in mode ``cumulative``, and in the other two
            each time that all cuts have had their turn, so that in every n epochs each image is seen equally often.
        score: name of the selection score by which the data lies in order before it is cut, the highest first; None
            puts it in order by chance.
    """

    kind: Literal["cut"] = "cut"
    cuts: int = 9
    mode: CutMode = CutMode.CUMULATIVE
    fixed: bool = False
    score: str | None = None

    def __post_init__(self) -> None:
        if self.cuts < 2:
            raise ValueError(f"cuts: got {self.cuts}; must be at least 2")
        _check_score(self.score)


@dataclass(frozen=True, kw_only=True, slots=True)
class InfoBatch:
    """Images that are known well are dropped at random, and those kept of them weigh more (arXiv 2303.04947).

    Attributes:
        kind: tells the schedules apart where they are written as JSON.
        prune: r, probability with which an image whose last loss lies under the mean is dropped, above 0 and under 1;
            a kept one of them weighs 1 / (1 - r), so that the expected gradient is that of all data.
        anneal: share of the epochs, at the end, that train on everything; at least 0 and under 1; rounded to whole
            epochs, halves up.
    """

    kind: Literal["infobatch"] = "infobatch"
    prune: float = 0.5
    anneal: float = 0.125

    def __post_init__(self) -> None:
        _check_between_0_and_1("prune", self.prune)
        if not 0 <= self.anneal < 1:
            raise ValueError(f"anneal: got {self.anneal}; must be at least 0 and under 1")


DataScheduleConfig = Annotated[AllData | DataStep | DataIncrement | DataCut | InfoBatch, Field(discriminator="kind")]
"""Which part of the data each epoch trains on."""

FORMS = "none, step:FRACTION:SHARE, increment:FRACTION, cut:CUTS[:MODE], infobatch[:PRUNE[:ANNEAL]]"
"""What :func:`parse_data_schedule` takes; the middle three may end in ``:fixed`` and ``:score=NAME``."""


def data_step_grid() -> Mapping[str, DataStep]:
    """Give the source's experiments E1..E9: 25, 50, 75 % of the data, each for 25, 50, 75 % of the epochs.

    They train on 81.25, 62.5, 43.75, 87.5, 75, 62.5, 93.75, 87.5 and 81.25 % of the evaluations.
    """
    parts = (0.25, 0.5, 0.75)
    steps = [DataStep(fraction=fraction, share=share) for fraction in parts for share in parts]
    return {f"E{number}": step for number, step in enumerate(steps, start=1)}


def parse_data_schedule(text: str) -> DataScheduleConfig:
    """Read a data schedule as it is typed on a command line.

    Args:
        text: such as ``none``, ``step:0.5:0.5``, ``increment:0.25``, ``cut:9``, ``cut:9:rotate`` or ``infobatch``; a
            step, increment or cut may end in ``:fixed``, ``:score=NAME``, or both.

    Returns:
        the schedule.

    Raises:
        ValueError: the text has another form, or a value lies outside its limits; names field, value and limit.
    """
    kind, *words = text.split(":")
    reader = _READERS.get(kind)
    if reader is None:
        raise ValueError(f"data schedule: got {text!r}; must be one of {FORMS}")
    try:
        return reader(words)
    except ValueError as error:
        raise ValueError(f"data schedule {text!r}: {error}") from error


def format_data_schedule(config: DataScheduleConfig) -> str:
    """Write a data schedule as :func:`parse_data_schedule` reads it."""
    words: list[object] = [config.kind]
    match config:
        case DataStep():
            words += [config.fraction, config.share]
        case DataIncrement():
            words += [config.fraction]
        case DataCut():
            words += [config.cuts, *([] if config.mode is CutMode.CUMULATIVE else [config.mode])]
        case InfoBatch(prune=prune, anneal=anneal) if config != InfoBatch():
            words += [prune, anneal]
        case _:
            pass
    if isinstance(config, DataStep | DataIncrement | DataCut):
        words += ["fixed"] * config.fixed + [f"score={config.score}"] * (config.score is not None)
    return ":".join(map(str, words))


def _read_all(words: list[str]) -> AllData:
    _check_count(words, least=0, most=0)
    return AllData()


def _read_step(words: list[str]) -> DataStep:
    numbers, fixed, score = _split_options(words)
    _check_count(numbers, least=2, most=2)
    fraction, share = _number("fraction", numbers[0]), _number("share", numbers[1])
    return DataStep(fraction=fraction, share=share, fixed=fixed, score=score)


def _read_increment(words: list[str]) -> DataIncrement:
    numbers, fixed, score = _split_options(words)
    _check_count(numbers, least=1, most=1)
    return DataIncrement(fraction=_number("fraction", numbers[0]), fixed=fixed, score=score)


def _read_cut(words: list[str]) -> DataCut:
    numbers, fixed, score = _split_options(words)
    _check_count(numbers, least=1, most=2)
    if not numbers[0].isdecimal():
        raise ValueError(f"cuts: got {numbers[0]!r}; must be a whole number of at least 2")
    mode = numbers[1] if len(numbers) == 2 else CutMode.CUMULATIVE
    if mode not in list(CutMode):
        raise ValueError(f"mode: got {mode!r}; must be one of {', '.join(CutMode)}")
    return DataCut(cuts=int(numbers[0]), mode=CutMode(mode), fixed=fixed, score=score)


def _read_infobatch(words: list[str]) -> InfoBatch:
    _check_count(words, least=0, most=2)
    numbers = [_number(name, word) for name, word in zip(("prune", "anneal"), words, strict=False)]
    prune, anneal = (*numbers, *(InfoBatch().prune, InfoBatch().anneal)[len(numbers) :])
    return InfoBatch(prune=prune, anneal=anneal)


_READERS: Mapping[str, Callable[[list[str]], DataScheduleConfig]] = MappingProxyType(
    {
        "none": _read_all,
        "step": _read_step,
        "increment": _read_increment,
        "cut": _read_cut,
        "infobatch": _read_infobatch,
    }
)


def _split_options(words: list[str]) -> tuple[list[str], bool, str | None]:
    """Divide words into numbers, whether ``fixed`` is among them, and the score's name."""
    numbers = [word for word in words if word != "fixed" and not word.startswith("score=")]
    scores = [word.removeprefix("score=") for word in words if word.startswith("score=")]
    if len(scores) > 1:
        raise ValueError(f"score: got {len(scores)} of them; must be at most one")
    return numbers, "fixed" in words, scores[0] if scores else None


def _number(name: str, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"{name}: got {word!r}; must be a number") from None


def _check_count(words: list[str], *, least: int, most: int) -> None:
    if not least <= len(words) <= most:
        limit = str(least) if least == most else f"{least} to {most}"
        raise ValueError(f"values: got {len(words)}; must be {limit}; the forms are {FORMS}")


def _check_between_0_and_1(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name}: got {value}; must be between 0 and 1, both excluded")


def _check_score(score: str | None) -> None:
    if score is not None and (not score or ":" in score):
        raise ValueError(f"score: got {score!r}; must be a name without colons")

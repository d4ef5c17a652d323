"""FLOPs and seconds: what a row may spend, what a plan keeps small, and how the numbers are written."""

import math
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import accumulate

_SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_FLOPS_TEXT = re.compile(r"\s*(\d{1,100})(?:\.(\d{1,100}))?\s*([KMGT]?)\s*", re.IGNORECASE | re.ASCII)
_MAX_FLOPS = 2**63 - 1


class Cost(StrEnum):
    """What a plan keeps small. Caps are in FLOPs whatever it is, since no machine changes those."""

    FLOPS = "flops"
    SECONDS = "seconds"
    """From the members' profiles, measured on one machine."""


def parse_flops(text: str) -> int:
    """Read a number of FLOPs such as ``250M``, ``1.5G`` or ``81100000``.

    Args:
        text: digits, at most one decimal point, then an optional K, M, G or T (powers of 1000).

    Returns:
        FLOPs, rounded down to an integer, at least 1.

    Raises:
        ValueError: the text is none of these, is under one FLOP, or passes 2**63 - 1.
    """
    match = _FLOPS_TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a number of FLOPs such as 250M, 1.5G or 81100000")
    whole, fraction, suffix = match.groups(default="")
    flops: int = int(whole + fraction) * _SUFFIXES[suffix.upper()] // 10 ** len(fraction)
    if not 1 <= flops <= _MAX_FLOPS:
        raise ValueError(f"{text!r} must lie between 1 and {_MAX_FLOPS} FLOPs")
    return flops


def format_flops(flops: float) -> str:
    """Write FLOPs with three significant digits and a suffix, such as ``81.1M``; NaN gives ``-``."""
    if math.isnan(flops):
        return "-"
    for suffix in ("T", "G", "M", "K"):
        # Rounded first: 999,999 is 1M, not 1e+03K.
        if float(f"{flops:.3g}") >= _SUFFIXES[suffix]:
            return f"{flops / _SUFFIXES[suffix]:.3g}{suffix}"
    return f"{flops:.3g}"


def format_seconds(seconds: float) -> str:
    """Write a duration with three significant digits and a unit, such as ``1.14ms``; NaN gives ``-``."""
    if math.isnan(seconds):
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        # Rounded first: 999.9 microseconds are 1ms.
        if float(f"{seconds:.3g}") >= size:
            return f"{float(f'{seconds / size:.3g}'):g}{unit}"
    return f"{seconds * 1e6:.3g}µs"


def seconds_at(profile: Mapping[int, float], batch_size: int | None) -> float:
    """Read a profile.

    Args:
        profile: batch size → seconds per image.
        batch_size: which; None takes the size that the member does best with.

    Returns:
        seconds per image; NaN where that batch size was not measured.
    """
    return min(profile.values(), default=math.nan) if batch_size is None else profile.get(batch_size, math.nan)


def cumulative_flops(flops_per_stage: Sequence[int]) -> tuple[int, ...]:
    """Give the FLOPs spent on one row after each stage, when every stage up to it ran."""
    return tuple(accumulate(flops_per_stage))


def num_stages_within(flops_per_stage: Sequence[int], max_flops: int | None) -> int:
    """Count the stages that fit under a cap: the longest prefix whose summed FLOPs is at most ``max_flops``.

    Args:
        flops_per_stage: FLOPs of each stage's member, per image, in the order of the stages.
        max_flops: worst-case FLOPs per image; None is no cap.

    Returns:
        0 to ``len(flops_per_stage)``; 0 when not even the first stage fits.
    """
    if max_flops is None:
        return len(flops_per_stage)
    return sum(spent <= max_flops for spent in accumulate(flops_per_stage))

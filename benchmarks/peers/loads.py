"""The loads of the comparison: closed loops, and open ones, at a share of each server's peak or at one rate."""

import re
from dataclasses import dataclass
from enum import StrEnum

_TEXT = re.compile(r"([cor])(\d+)x(\d+)")


class Kind(StrEnum):
    """How requests come."""

    CLOSED = "c"
    """From callers that wait for their answers."""
    SHARE = "o"
    """As a Poisson process, at a share of the server's own peak."""
    RATE = "r"
    """As a Poisson process, at the same rate for every server."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """How to ask.

    Attributes:
        kind: how requests come.
        level: callers, per cent of the server's own peak, or images a second.
        images_per_request: at least 1.
    """

    kind: Kind
    level: int
    images_per_request: int

    def __str__(self) -> str:
        return f"{self.kind}{self.level}x{self.images_per_request}"

    @property
    def is_open(self) -> bool:
        """Requests come whether or not others have been answered."""
        return self.kind is not Kind.CLOSED

    @property
    def title(self) -> str:
        """Say it in words."""
        what = {
            Kind.CLOSED: f"closed loop, concurrency {self.level}",
            Kind.SHARE: f"open loop at {self.level} % of the peak",
            Kind.RATE: f"open loop at {self.level} images a second",
        }
        images = f"{self.images_per_request} image{'s' if self.images_per_request > 1 else ''}"
        return f"{what[self.kind]}, {images} a request"


def parse_loads(text: str) -> tuple[Load, ...]:
    """Read loads such as ``c32x1,o80x16,r250x1``, closed ones first, as others need their peak.

    Raises:
        ValueError: one can't be read, or one at a share of the peak has no closed one of its size to take it from.
    """
    loads = []
    for part in text.split(","):
        match = _TEXT.fullmatch(part)
        if match is None or int(match[2]) < 1 or int(match[3]) < 1:
            raise ValueError(f"loads: got {part!r}; must be {FORMS}")
        loads.append(Load(kind=Kind(match[1]), level=int(match[2]), images_per_request=int(match[3])))
    for load in loads:
        if load.kind is Kind.SHARE and not any(is_peak_of(other, load) for other in loads):
            raise ValueError(f"loads: {load} needs a closed loop of {load.images_per_request} images a request too")
    return tuple(sorted(loads, key=lambda load: load.is_open))


def is_peak_of(closed: Load, load: Load) -> bool:
    """Whether a closed loop may tell the peak of an open one."""
    return not closed.is_open and closed.images_per_request == load.images_per_request


FORMS = "c<callers>x<images>, o<per cent of the peak>x<images> or r<images a second>x<images>"
ALL = "c1x1,c8x1,c32x1,c64x1,c1x16,c8x16,o50x1,o80x1,o95x1,o50x16,o80x16,o95x16"
QUICK = "c32x1"

"""The loads of the comparison: closed loops, and open ones at a share of each server's own peak."""

import re
from dataclasses import dataclass

_TEXT = re.compile(r"([co])(\d+)x(\d+)")


@dataclass(frozen=True, kw_only=True)
class Load:
    """How to ask.

    Attributes:
        is_open: Poisson arrivals in place of callers that wait for their answers.
        level: callers (closed), or per cent of the server's own peak (open).
        images_per_request: at least 1.
    """

    is_open: bool
    level: int
    images_per_request: int

    def __str__(self) -> str:
        return f"{'o' if self.is_open else 'c'}{self.level}x{self.images_per_request}"

    @property
    def title(self) -> str:
        """Say it in words."""
        what = f"open loop at {self.level} % of the peak" if self.is_open else f"closed loop, concurrency {self.level}"
        return f"{what}, {self.images_per_request} image{'s' if self.images_per_request > 1 else ''} a request"


def parse_loads(text: str) -> tuple[Load, ...]:
    """Read loads such as ``c32x1,o80x16``, closed ones first, as the open ones need their peak.

    Raises:
        ValueError: one can't be read, or an open one has no closed one of its size to take the peak from.
    """
    loads = []
    for part in text.split(","):
        match = _TEXT.fullmatch(part)
        if match is None or int(match[2]) < 1 or int(match[3]) < 1:
            raise ValueError(f"loads: got {part!r}; must be c<callers>x<images> or o<per cent of the peak>x<images>")
        loads.append(Load(is_open=match[1] == "o", level=int(match[2]), images_per_request=int(match[3])))
    for load in loads:
        if load.is_open and not any(is_peak_of(other, load) for other in loads):
            raise ValueError(f"loads: {load} needs a closed loop of {load.images_per_request} images a request too")
    return tuple(sorted(loads, key=lambda load: load.is_open))


def is_peak_of(closed: Load, load: Load) -> bool:
    """Whether a closed loop may tell the peak of an open one."""
    return not closed.is_open and closed.images_per_request == load.images_per_request


ALL = "c1x1,c8x1,c32x1,c64x1,c1x16,c8x16,o50x1,o80x1,o95x1,o50x16,o80x16,o95x16"
QUICK = "c32x1"

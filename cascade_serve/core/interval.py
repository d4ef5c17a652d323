"""How far a measured share may lie from the true one: the interval that every reported accuracy carries."""

import math
from statistics import NormalDist

INTERVAL_LEVEL = 0.95
"""Of every interval that is reported."""


def wilson_interval(hits: int, n: int, level: float = INTERVAL_LEVEL) -> tuple[float, float]:
    """Give the two-sided score interval of a share (Wilson 1927).

    It is approximate, and near its level for any share; what is *promised* of a policy is tested exactly instead.

    Args:
        hits: successes, 0 to ``n``.
        n: trials, at least 1.
        level: coverage, in (0, 1).

    Returns:
        lower and upper bound, both in [0, 1], with the share between them.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = hits / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # The bounds touch 0 and 1, and nothing else, exactly: rounding must not leave the share outside.
    return (
        0.0 if hits == 0 else (centre - half) / scale,
        1.0 if hits == n else (centre + half) / scale,
    )

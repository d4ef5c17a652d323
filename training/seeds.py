"""Which seeds a run may be asked for."""

MAX_SEED = 2**63 - 1
"""Torch's generators take no larger one on all platforms."""


def check_seed(seed: int) -> None:
    """Refuse a seed that weights can't be drawn by.

    Raises:
        ValueError: it is negative or too large.
    """
    if seed < 0:
        raise ValueError(f"seed: got {seed}; must be at least 0")
    if seed > MAX_SEED:
        raise ValueError(f"seed: got {seed}; must be at most {MAX_SEED}")

"""Exit or defer: the one rule that the planner (offline) and the scheduler (online) share."""
# Shapes: B rows.

from typing import overload

from cascade_serve.core.arrays import BoolArray, FloatArray


@overload
def should_exit(confidence_B: FloatArray, threshold_B: FloatArray) -> BoolArray: ...
@overload
def should_exit(confidence_B: float, threshold_B: float) -> bool: ...
def should_exit(confidence_B: FloatArray | float, threshold_B: FloatArray | float) -> BoolArray | bool:
    """Tell which rows may leave the cascade at this stage; of one row, with numbers in place of arrays.

    Args:
        confidence_B: float32 [B] in [0, 1]. NaN defers.
        threshold_B: float32 [B], one a row: rows of one batch come from requests with different thresholds. A value
            under 0 lets every row with a confidence out; one above 1 none. A number must be one of float32's too, as
            a :class:`~cascade_serve.core.route.Route` has them.

    Returns:
        bool [B]; True exits. A tie exits.
    """
    return confidence_B >= threshold_B

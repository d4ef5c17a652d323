"""Exit or defer: the one rule that the planner (offline) and the scheduler (online) share."""
# Shapes: B rows.

from cascade_serve.core.arrays import BoolArray, FloatArray


def should_exit(confidence_B: FloatArray, threshold_B: FloatArray) -> BoolArray:
    """Tell which rows may leave the cascade at this stage.

    Args:
        confidence_B: float32 [B] in [0, 1]. NaN defers.
        threshold_B: float32 [B], one a row: rows of one batch come from requests with different thresholds. A value
            under 0 lets every row with a confidence out; one above 1 none.

    Returns:
        bool [B]; True exits. A tie exits.
    """
    return confidence_B >= threshold_B

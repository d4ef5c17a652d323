"""The nouns of a request: the caller's terms, the rows, and the reply."""
# Shapes: B rows, K classes, HWC image.

import math
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from cascade_serve.core.arrays import CodeArray, FloatArray, ImageArray, IntArray
from cascade_serve.errors import InvalidRequestError


class Mode(StrEnum):
    """Which members see a row."""

    CASCADE = "cascade"
    """One after the other, until one stage is confident enough."""
    ENSEMBLE = "ensemble"
    """All members of the policy that the cap allows; thresholds are not asked."""


class OnDeadline(StrEnum):
    """What becomes of a row that can't finish in time."""

    FAIL = "fail"
    """The request fails."""
    ANSWER = "answer"
    """The row exits with the prediction of the stages done."""


class ExitReason(IntEnum):
    """Why a row left the cascade."""

    CONFIDENT = 0
    """Its confidence reached the stage's threshold."""
    LAST_STAGE = 1
    """It ran every stage of its policy."""
    FLOP_CAP = 2
    """The caller's ``max_flops`` allows no further stage."""
    DEADLINE = 3
    """The next stage would not have finished in time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What one caller asks for, row by row.

    Attributes:
        policy: a policy of the plan.
        mode: cascade or ensemble.
        confidence_threshold: replaces the policy's thresholds: one number for all stages, or one a stage but the last,
            each in [0, 1], on the scale of the plan's confidence function; None keeps the policy's.
        max_flops: worst-case FLOPs per image, at least 1; None is no cap.
        on_deadline: fail a late row, or answer with what is there.
        priority: 0 is the default and the lowest; among 1, 2, ... the smaller number goes first.

    Raises:
        InvalidRequestError: a value is out of its range.
    """

    policy: str = "default"
    mode: Mode = Mode.CASCADE
    confidence_threshold: float | tuple[float, ...] | None = None
    max_flops: int | None = None
    on_deadline: OnDeadline = OnDeadline.FAIL
    priority: int = 0

    def __post_init__(self) -> None:
        for threshold in self.thresholds or ():
            if math.isnan(threshold) or not 0 <= threshold <= 1:
                raise InvalidRequestError("confidence_threshold", threshold, "between 0 and 1")
        if self.max_flops is not None and self.max_flops < 1:
            raise InvalidRequestError("max_flops", self.max_flops, "at least 1")
        if not 0 <= self.priority < 2**32:
            raise InvalidRequestError("priority", self.priority, f"between 0 and {2**32 - 1}")

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """The caller's own thresholds as a tuple, whichever way they were given."""
        if self.confidence_threshold is None or isinstance(self.confidence_threshold, tuple):
            return self.confidence_threshold
        return (self.confidence_threshold,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Rows to classify, all on the same terms.

    Attributes:
        images_BHWC: uint8 [B, H, W, C], B at least 1, at the plan's image size.
        terms: the caller's terms.
        deadline_s: on ``time.monotonic``'s clock, in seconds; None waits for ever.
        wants_probabilities: False lets an engine leave them out of the reply, where bringing them costs time.
    """

    images_BHWC: ImageArray
    terms: Terms = field(default_factory=Terms)
    deadline_s: float | None = None
    wants_probabilities: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """The answers, in the order of the request's rows.

    Attributes:
        probabilities_BK: float32 [B, K], the committee's class probabilities; [B, 0] where they were left out.
        label_B: int64 [B], the index of the largest probability.
        confidence_B: float32 [B] in [0, 1], by the plan's confidence function.
        exit_stage_B: int64 [B], 0-based, in the policy's stages.
        exit_reason_B: uint8 [B] of :class:`ExitReason`.
        flops_B: int64 [B], what the stages that ran for the row cost.
        policy: the policy that was followed.
        certified: the answer is covered by the policy's certificate.
    """

    probabilities_BK: FloatArray
    label_B: IntArray
    confidence_B: FloatArray
    exit_stage_B: IntArray
    exit_reason_B: CodeArray
    flops_B: IntArray
    policy: str
    certified: bool

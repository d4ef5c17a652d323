"""A backend made of one session a member: names the member that fails, and checks what a session gives."""
# Shapes: B rows of a batch, K classes, HWC image.

from collections.abc import Sequence
from typing import Protocol

from cascade_serve.core.arrays import FloatArray, ImageArray
from cascade_serve.core.plan import Plan
from cascade_serve.errors import MemberError


class Session(Protocol):
    """One member, ready to run; used by one thread at a time."""

    def logits(self, images_BHWC: ImageArray) -> FloatArray:
        """Run uint8 images [B, H, W, C] and give float32 logits [B, K].

        Raises:
            MemberError: the run failed.
        """
        ...


class SessionRunner:
    """Runs a plan's members; see :class:`~cascade_serve.engine.protocol.Runner`.

    Args:
        plan: whose members these are.
        sessions: one a member, in the plan's order.
    """

    def __init__(self, plan: Plan, sessions: Sequence[Session]) -> None:
        self._names = [member.name for member in plan.members]
        self._num_classes = len(plan.task.classes)
        self._sessions = tuple(sessions)

    def run(self, member: int, images_BHWC: ImageArray) -> FloatArray:
        """Run one member; see the protocol."""
        try:
            logits_BK = self._sessions[member].logits(images_BHWC)
        except MemberError as error:
            raise MemberError(f"member {self._names[member]!r}: {error}") from error
        expected = (len(images_BHWC), self._num_classes)
        if logits_BK.shape != expected:
            raise MemberError(
                f"member {self._names[member]!r}: logits: got shape {logits_BK.shape}; must be {expected}"
            )
        return logits_BK

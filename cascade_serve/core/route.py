"""What one caller's terms make of a policy: the stages its rows may run, and where they must stop."""

import math
from dataclasses import dataclass

import numpy as np

from cascade_serve.core.combine import Combine
from cascade_serve.core.cost import num_stages_within
from cascade_serve.core.plan import Plan, Policy
from cascade_serve.core.request import ExitReason, Mode, Terms
from cascade_serve.errors import InvalidRequestError


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """The way of all rows of one request.

    Attributes:
        policy: the policy's name.
        members: index of the member of each allowed stage.
        flops: FLOPs of each allowed stage, per image.
        thresholds: of each allowed stage, rounded to float32, as confidences are; infinity where confidence lets
            nothing out: at the policy's last stage, and at all stages of an ensemble.
        last_reason: why a row leaves at the last allowed stage, when not by its confidence.
        is_ensemble: all allowed stages run, whatever the confidence.
        is_certified: the policy's certificate covers answers given on these terms.
    """

    policy: str
    members: tuple[int, ...]
    flops: tuple[int, ...]
    thresholds: tuple[float, ...]
    last_reason: ExitReason
    is_ensemble: bool
    is_certified: bool


def make_route(plan: Plan, terms: Terms) -> Route:
    """Apply a caller's terms to the plan.

    Args:
        plan: the plan being served.
        terms: the caller's.

    Returns:
        the route: the longest prefix of the policy's stages whose summed FLOPs is at most ``max_flops``.

    Raises:
        NotFoundError: the plan has no such policy.
        InvalidRequestError: the cap is under the first stage's cost, the number of thresholds does not fit the
            policy, or an ensemble is asked of a plan that combines by ``last``.
    """
    policy = plan.policy(terms.policy)
    index = plan.member_index
    members = tuple(index[stage.member] for stage in policy.stages)
    flops = tuple(plan.members[member].flops for member in members)
    allowed = num_stages_within(flops, terms.max_flops)
    if allowed == 0:
        raise InvalidRequestError(
            "max_flops", terms.max_flops, f"at least {flops[0]}, the cost of the first stage of policy {policy.name!r}"
        )
    is_ensemble = terms.mode is Mode.ENSEMBLE
    if is_ensemble and plan.combine is Combine.LAST:
        raise InvalidRequestError("mode", "ensemble", "cascade: this plan combines by 'last', so nothing is averaged")
    is_capped = allowed < len(members)
    thresholds = (math.inf,) * len(members) if is_ensemble else _to_float32(_thresholds(policy, terms))
    return Route(
        policy=policy.name,
        members=members[:allowed],
        flops=flops[:allowed],
        thresholds=thresholds[:allowed],
        last_reason=ExitReason.FLOP_CAP if is_capped else ExitReason.LAST_STAGE,
        is_ensemble=is_ensemble,
        is_certified=not (is_capped or is_ensemble or terms.thresholds is not None or policy.certificate is None),
    )


def _to_float32(thresholds: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(np.array(thresholds, dtype=np.float32).tolist())


def _thresholds(policy: Policy, terms: Terms) -> tuple[float, ...]:
    """Give one threshold a stage; the policy's last stage lets rows out for another reason."""
    own = terms.thresholds
    gates = len(policy.stages) - 1
    if own is None:
        return tuple(math.inf if stage.threshold is None else stage.threshold for stage in policy.stages)
    if not isinstance(terms.confidence_threshold, tuple):
        return (*own * gates, math.inf)
    if len(own) != gates:
        raise InvalidRequestError(
            "confidence_threshold",
            f"{len(own)} thresholds",
            f"one number, or {gates} for policy {policy.name!r}: one a stage but the last",
        )
    return (*own, math.inf)

"""What a zoo's members cost in seconds: their profiles, and whether these may be compared."""

import math
from collections.abc import Sequence
from shlex import quote

from cascade_serve.core.cost import Cost, seconds_at
from cascade_serve.errors import ConfigError
from cascade_serve.planner.demands import Demands
from model_zoo.store import ZooMember


def read_seconds(members: Sequence[ZooMember], demands: Demands) -> tuple[float, ...]:
    """Read what each member takes for an image, at the batch size that the demands name.

    Args:
        members: of one task, at least one.
        demands: where they are for FLOPs, seconds are only told beside them, as far as they are known.

    Returns:
        seconds per image; NaN where not known.

    Raises:
        ConfigError: seconds are to be kept small, and a member has no profile, none at that batch size, or one that was
            measured on something else than the others'.
    """
    if demands.cost is Cost.SECONDS:
        _check_profiles(members, demands.cost_batch_size)
    return known_seconds(members, demands.cost_batch_size)


def known_seconds(members: Sequence[ZooMember], batch_size: int | None = None) -> tuple[float, ...]:
    """Read what each member takes for an image, where known.

    Args:
        members: of one task, at least one.
        batch_size: None is each member's best.

    Returns:
        seconds per image; NaN for members without a profile, and for all where profiles can't be compared.
    """
    if len({_profiled_on(member) for member in members if member.card.cost.seconds}) > 1:
        return (math.nan,) * len(members)
    return tuple(seconds_at(member.card.cost.seconds or {}, batch_size) for member in members)


def _check_profiles(members: Sequence[ZooMember], batch_size: int | None) -> None:
    lacking = [member for member in members if not member.card.cost.seconds]
    if lacking:
        names = ", ".join(repr(member.name) for member in lacking)
        raise ConfigError(f"--cost seconds: got no profile of {names}; measure with: {_command(lacking)}")
    first = _profiled_on(members[0])
    for member in members:
        if _profiled_on(member) != first:
            raise ConfigError(
                f"--cost seconds: got the profile of {member.name!r} from {_profiled_on(member)}; must be from {first},"
                f" as that of {members[0].name!r}; measure all with: {_command(members)}"
            )
    for member in members:
        sizes = sorted(member.card.cost.seconds or {})
        if batch_size is not None and batch_size not in sizes:
            raise ConfigError(
                f"--cost-batch-size: got {batch_size}; must be among {', '.join(map(str, sizes))}, at which"
                f" {member.name!r} was profiled, or measure with: {_command(members)} --batch-sizes {batch_size}"
            )


def _profiled_on(member: ZooMember) -> str:
    return member.card.cost.profiled_on or "an unknown machine"


def _command(members: Sequence[ZooMember]) -> str:
    task_path = members[0].path.parent
    return f"cascade-serve zoo profile {quote(str(task_path))} {' '.join(member.name for member in members)}"

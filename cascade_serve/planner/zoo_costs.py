"""What a zoo's members cost in seconds: their profiles, and whether these may be compared."""

import math
from collections.abc import Sequence
from shlex import quote

from cascade_serve.core.cost import Cost, seconds_at
from cascade_serve.errors import ConfigError
from cascade_serve.planner.demands import Demands
from model_zoo.card import DeviceKind
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
    if len({_place(member) for member in members if member.card.cost.seconds}) > 1:
        return (math.nan,) * len(members)
    return tuple(seconds_at(member.card.cost.seconds or {}, batch_size) for member in members)


def _check_profiles(members: Sequence[ZooMember], batch_size: int | None) -> None:
    lacking = [member for member in members if not member.card.cost.seconds]
    if lacking:
        names = ", ".join(repr(member.name) for member in lacking)
        raise ConfigError(
            f"--cost seconds: got no profile of {names}; measure with: {_command(lacking, _device_of(members))}"
        )
    first, device = _place(members[0]), _device_of(members)
    for member in members:
        if _place(member) != first:
            raise ConfigError(
                f"--cost seconds: got the profile of {member.name!r} from {_place(member)}; must be from {first},"
                f" as that of {members[0].name!r}; measure all with: {_command(members, device)}"
            )
    for member in members:
        sizes = sorted(member.card.cost.seconds or {})
        if batch_size is not None and batch_size not in sizes:
            raise ConfigError(
                f"--cost-batch-size: got {batch_size}; must be among {', '.join(map(str, sizes))}, at which"
                f" {member.name!r} was profiled, or measure with: {_command(members, device)}"
                f" --batch-sizes {batch_size}"
            )


def _place(member: ZooMember) -> str:
    """Say where a profile is from: of two profiles that may be compared the same, and of others never."""
    cost = member.card.cost
    return f"{cost.profiled_on or 'an unknown machine'}{' (cuda)' if cost.profiled_device == 'cuda' else ''}"


def _device_of(members: Sequence[ZooMember]) -> DeviceKind:
    """Give the kind of device that the first profile is of."""
    kinds = (member.card.cost.profiled_device or "cpu" for member in members if member.card.cost.seconds)
    return next(kinds, "cpu")


def _command(members: Sequence[ZooMember], device: DeviceKind) -> str:
    task_path, names = members[0].path.parent, " ".join(member.name for member in members)
    option = " --device cuda" if device == "cuda" else ""
    return f"cascade-serve zoo profile {quote(str(task_path))} {names}{option}"

"""Names on the wire: a cascade, or ``CASCADE.MEMBER`` for one of its members."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from cascade_serve.core.plan import Member
from cascade_serve.errors import InvalidRequestError, NotFoundError, UnavailableError
from cascade_serve.rpc.ports import Repository, Served


class Subject(NamedTuple):
    """What a name means: a cascade, or one member of it."""

    served: Served
    member: Member | None

    @property
    def name(self) -> str:
        """The name, as a client says it."""
        return self.served.name if self.member is None else member_name(self.served, self.member.name)


def member_name(served: Served, member: str) -> str:
    """Give the name under which a client asks about a member."""
    return f"{served.name}.{member}"


@contextmanager
def find(repository: Repository, name: str, version: str) -> Iterator[Subject]:
    """Hold what a name means.

    Raises:
        NotFoundError: no cascade and no member has this name, or not in this version.
        UnavailableError: the cascade is loading or draining.
    """
    cascades = {entry.name for entry in repository.index()}
    for cascade, member in _readings(name, cascades):
        with repository.acquire(cascade, version) as served:
            plan = served.bundle.plan
            if member is None or member in plan.member_index:
                yield Subject(served, None if member is None else plan.members[plan.member_index[member]])
                return
    raise NotFoundError("model", name, sorted(cascades))


def _readings(name: str, cascades: set[str]) -> list[tuple[str, str | None]]:
    """Give what a name may mean, likeliest first: cascades and members may have dots of their own."""
    dots = [position for position, character in enumerate(name) if character == "."]
    whole: list[tuple[str, str | None]] = [(name, None)] if name in cascades else []
    return whole + [(name[:dot], name[dot + 1 :]) for dot in reversed(dots) if name[:dot] in cascades]


def is_ready(repository: Repository, name: str, version: str) -> bool:
    """Tell whether a cascade, or a member's cascade, answers."""
    try:
        with find(repository, name, version) as subject:
            # Where several processes share the port, the index speaks for all.
            return any(entry.name == subject.served.name and entry.state == "READY" for entry in repository.index())
    except (NotFoundError, UnavailableError):
        return False


def refuse_member(repository: Repository, name: str, version: str) -> None:
    """Say so when a name that no cascade has is a member's.

    Raises:
        InvalidRequestError: it is: only its cascade gives answers.
    """
    with suppress(NotFoundError), find(repository, name, version) as subject:
        if subject.member is not None:
            limit = f"{subject.served.name!r}, its cascade: a member is not served alone"
            raise InvalidRequestError("model_name", repr(name), limit)

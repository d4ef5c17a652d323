"""What the processes of one server say together of what they serve, though each knows only itself at first hand."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cascade_serve.processes.channel import Body
from cascade_serve.repository import IndexEntry, State

# What is said of a version that is not READY everywhere: the first of these that it is somewhere.
_PRECEDENCE: tuple[State, ...] = ("LOADING", "UNLOADING", "UNAVAILABLE")


def combine(indexes: Sequence[Sequence[IndexEntry]]) -> list[IndexEntry]:
    """Make one index of those of all processes.

    A version is READY where every process has it so; else it is what the least advanced process says. While a swap goes
    through the processes, no version may be READY in all, though each has one: then the lowest is, so that a cascade
    that answers is never listed as if it did not.

    Args:
        indexes: one a process, each entry once.

    Returns:
        by name and version.
    """
    entries = [{(entry.name, entry.version): entry for entry in index} for index in indexes]
    keys = sorted({key for index in entries for key in index}, key=lambda key: (key[0], int(key[1])))
    combined = {key: _combine_version([index.get(key) for index in entries]) for key in keys}
    for cascade in _swapping(indexes, combined.values()):
        lowest = min((key for key in keys if key[0] == cascade and _is_ready_somewhere(entries, key)), key=_version)
        combined[lowest] = replace(combined[lowest], state="READY", reason="")
    return list(combined.values())


def _version(key: tuple[str, str]) -> int:
    return int(key[1])


def _combine_version(entries: Sequence[IndexEntry | None]) -> IndexEntry:
    present = [entry for entry in entries if entry is not None]
    for state in _PRECEDENCE:
        for entry in present:
            if entry.state == state:
                return entry
    if len(present) == len(entries):
        return present[0]
    return replace(present[0], state="LOADING", reason="not every process has met it yet")


def _swapping(indexes: Sequence[Sequence[IndexEntry]], combined: Iterable[IndexEntry]) -> set[str]:
    """Give the cascades that answer in every process, but in no version that all of them have."""
    answering = set.intersection(*({entry.name for entry in index if entry.state == "READY"} for index in indexes))
    return answering - {entry.name for entry in combined if entry.state == "READY"}


def _is_ready_somewhere(entries: Sequence[Mapping[tuple[str, str], IndexEntry]], key: tuple[str, str]) -> bool:
    return any(key in index and index[key].state == "READY" for index in entries)


def served_versions(index: Iterable[IndexEntry]) -> dict[str, int]:
    """Give cascade → the version that answers."""
    return {entry.name: int(entry.version) for entry in index if entry.state == "READY"}


def pack_index(index: Iterable[IndexEntry]) -> list[list[str]]:
    """Make JSON of an index."""
    return [[entry.name, entry.version, entry.state, entry.reason] for entry in index]


def unpack_index(packed: Iterable[Sequence[str]]) -> tuple[IndexEntry, ...]:
    """Read what :func:`pack_index` wrote."""
    return tuple(
        IndexEntry(name=name, version=version, state=_state(state), reason=reason)
        for name, version, state, reason in packed
    )


def _state(text: str) -> State:
    return next(state for state in ("READY", *_PRECEDENCE) if state == text)


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What one process knows of the others.

    Attributes:
        is_ready: every process has come up once, and those that there are answer.
        others: the index of each other process.
    """

    is_ready: bool = False
    others: tuple[tuple[IndexEntry, ...], ...] = ()

    def pack(self) -> Body:
        """Make JSON of it."""
        return {"is_ready": self.is_ready, "others": [pack_index(one) for one in self.others]}

    @classmethod
    def unpack(cls, body: Body) -> "View":
        """Read what :meth:`pack` wrote."""
        return cls(is_ready=body["is_ready"], others=tuple(unpack_index(one) for one in body["others"]))

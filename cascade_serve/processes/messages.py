"""What parent and front-end processes say to each other: the names of their calls, and the first thing that is said."""

from dataclasses import dataclass

from pydantic import TypeAdapter

from cascade_serve.processes.channel import Body
from cascade_serve.rpc.shared_memory import RegionSpec
from cascade_serve.serving import ServeConfig

# The parent tells, or asks. The first is what a process reads before anything else.
SETTINGS = "settings"
VIEW = "view"
REFRESH = "refresh"
SYNC = "sync"
COUNTS = "counts"
# A process tells, or asks.
STATE = "state"
UP = "up"
FAILED = "failed"
LEAVING = "leaving"
STATISTICS = "statistics"
# Either asks: a process for a change in all of them, and then the parent each.
CHANGE = "change"


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """What callers have changed since the server started, which a process that is started anew must know.

    Attributes:
        versions: cascade → the version that is served.
        unloaded: cascades that were unloaded.
        regions: shared memory that is registered, by name.
    """

    versions: dict[str, int]
    unloaded: frozenset[str]
    regions: tuple[RegionSpec, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The first frame that a process gets.

    Attributes:
        slot: which of the processes it is, from 1 on.
        config: what it serves with: the port that the parent holds, shared.
        log_level: least that is logged.
        memory: None at the server's start, when every process loads what is newest.
    """

    slot: int
    config: ServeConfig
    log_level: str
    memory: Memory | None = None

    def pack(self) -> Body:
        """Make JSON of it."""
        packed: Body = _SETTINGS.dump_python(self, mode="json")
        return packed

    @classmethod
    def unpack(cls, body: Body) -> "Settings":
        """Read what :meth:`pack` wrote."""
        return _SETTINGS.validate_python(body)


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Something that shall hold in all processes.

    Attributes:
        verb: ``load`` or ``unload`` a cascade, ``register`` or ``unregister`` a region of shared memory.
        name: the cascade's or region's; empty unregisters all regions.
        region: that is registered.
    """

    verb: str
    name: str
    region: RegionSpec | None = None

    def pack(self) -> Body:
        """Make JSON of it."""
        packed: Body = _CHANGE.dump_python(self, mode="json")
        return packed

    @classmethod
    def unpack(cls, body: Body) -> "Change":
        """Read what :meth:`pack` wrote."""
        return _CHANGE.validate_python(body)


_SETTINGS: TypeAdapter[Settings] = TypeAdapter(Settings)
_CHANGE: TypeAdapter[Change] = TypeAdapter(Change)
_MEMORY: TypeAdapter[Memory] = TypeAdapter(Memory)


def pack_memory(memory: Memory) -> Body:
    """Make JSON of a memory."""
    packed: Body = _MEMORY.dump_python(memory, mode="json")
    return packed


def unpack_memory(body: Body) -> Memory:
    """Read what :func:`pack_memory` wrote."""
    return _MEMORY.validate_python(body)

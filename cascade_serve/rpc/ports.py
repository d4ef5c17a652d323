"""What the RPC side needs of others: the cascades that are served, a hold on one, and who knows the shared regions."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from cascade_serve.bundle import Bundle
from cascade_serve.engine.protocol import Engine
from cascade_serve.repository import IndexEntry
from cascade_serve.rpc.shared_memory import RegionSpec
from cascade_serve.rpc.tally import Tally


class Served(Protocol):
    """One version of one cascade, warm."""

    @property
    def name(self) -> str:
        """The cascade's name."""
        ...

    @property
    def version(self) -> int:
        """The version's number."""
        ...

    @property
    def bundle(self) -> Bundle:
        """What is served."""
        ...

    @property
    def engine(self) -> Engine:
        """What answers."""
        ...


class Repository(Protocol):
    """The cascades of one server."""

    @property
    def is_ready(self) -> bool:
        """Every cascade that was there at the start has been loaded, and at least one answers."""
        ...

    def acquire(self, cascade: str, version: str = "") -> AbstractContextManager[Served]:
        """Hold a cascade while a request runs, so that a swap waits for it.

        Args:
            cascade: its name.
            version: as a text; empty is the one being served.

        Raises:
            NotFoundError: there is no such cascade, or not in that version.
            UnavailableError: it is loading, is leaving, or could not be loaded.
        """
        ...

    def index(self) -> list[IndexEntry]:
        """List every version that was met and is still there, by name and version."""
        ...

    def load(self, cascade: str) -> None:
        """Load a cascade's newest version and swap it in.

        Raises:
            NotFoundError: there is no such folder.
            BundleError: its newest version can't be loaded.
        """
        ...

    def unload(self, cascade: str) -> None:
        """Drain a cascade and let it go.

        Raises:
            NotFoundError: it is not loaded.
        """
        ...


class Siblings(Protocol):
    """The processes that answer on one port, this one among them."""

    def statistics(self) -> Mapping[str, Tally]:
        """Give the statistics of all processes together, by :func:`~cascade_serve.rpc.tally.tally_key`."""
        ...


class RegionControl(Protocol):
    """What callers may change about shared memory: by default one process's table, else those of all its siblings."""

    def register(self, spec: RegionSpec) -> None:
        """Make a region known.

        Raises:
            InvalidRequestError: name, key or numbers are out of their range, or there is no such object, or it is
                shorter.
            ExistsError: the name is taken.
            OverloadedError: there are too many regions.
        """
        ...

    def unregister(self, name: str = "") -> None:
        """Forget a region, or all without a name; one that is not registered is no error.

        Requests that use it end undisturbed.
        """
        ...

    def status(self, name: str = "") -> list[RegionSpec]:
        """List a region, or all without a name.

        Raises:
            NotFoundError: it is not registered.
        """
        ...

"""What the RPC side needs of the repository: the cascades that are served, and a hold on one while a request runs."""

from contextlib import AbstractContextManager
from typing import Protocol

from cascade_serve.bundle import Bundle
from cascade_serve.engine.protocol import Engine
from cascade_serve.repository import IndexEntry


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

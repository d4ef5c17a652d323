"""Serve a committee of small models: an early-exit cascade or an ensemble, on the caller's own terms."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cascade_serve.rpc.client import Client as Client

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # The client brings grpc with it, which planning and offline work don't need.
    if name == "Client":
        from cascade_serve.rpc.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

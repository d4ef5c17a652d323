"""The port that front-end processes share: held by the parent, which never listens on it."""

import socket

from cascade_serve.errors import ConfigError
from cascade_serve.rpc.server import ServerConfig


def hold_port(config: ServerConfig) -> socket.socket:
    """Bind the server's address without listening, so that the processes, and nobody else, can listen on it.

    A socket that does not listen gets no connections. While it is open, port 0 stays the port that was found, however
    many processes come and go. Unless ``reuse_port`` lets other servers in, it is bound for itself alone first, and
    opened to this user's sharing listeners then: a second server that was given the same port by mistake is refused.

    Raises:
        ConfigError: the address can't be bound, or this system can't share ports.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigError("processes: got several; must be 1 on this system, whose processes can't share a port")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        holder = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        # A host may be no name at all, such as one with an empty part.
        raise _refusal(config, error) from error
    try:
        _bind(holder, address, is_shared=config.reuse_port)
    except OSError as error:
        holder.close()
        raise _refusal(config, error) from error
    return holder


def _bind(holder: socket.socket, address: object, *, is_shared: bool) -> None:
    # Over connections of an earlier server that linger.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(is_shared))
    holder.bind(address)  # type: ignore[arg-type]
    # Nobody else may bind over a socket that does not listen, as both that have this option could.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _refusal(config: ServerConfig, error: Exception) -> ConfigError:
    return ConfigError(f"address {config.address}: can't listen on it; is it in use? ({error})")

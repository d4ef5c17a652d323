import socket
from contextlib import closing

import pytest

from cascade_serve.errors import ConfigError
from cascade_serve.processes.port import hold_port
from cascade_serve.rpc.server import ServerConfig


def listen(port: int, *, is_shared: bool) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(is_shared))
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def test_those_that_share_can_listen_and_get_all_connections() -> None:
    with closing(hold_port(ServerConfig(port=0))) as holder:
        port = holder.getsockname()[1]
        with listen(port, is_shared=True) as first, listen(port, is_shared=True) as second:
            connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(16)]
            counts = [_accept_all(listener) for listener in (first, second)]
            assert sum(counts) == len(connections)
            for connection in connections:
                connection.close()


def _accept_all(listener: socket.socket) -> int:
    listener.setblocking(False)
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_nobody_else_takes_the_port() -> None:
    with closing(hold_port(ServerConfig(port=0))) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            listen(port, is_shared=False)
        with pytest.raises(ConfigError, match=rf"^address 127\.0\.0\.1:{port}: can't listen on it; is it in use\?"):
            hold_port(ServerConfig(port=port))
        # Also once somebody listens.
        with listen(port, is_shared=True), pytest.raises(ConfigError):
            hold_port(ServerConfig(port=port))


def test_servers_that_say_so_share_it() -> None:
    with closing(hold_port(ServerConfig(port=0, reuse_port=True))) as holder:
        port = holder.getsockname()[1]
        with listen(port, is_shared=True), closing(hold_port(ServerConfig(port=port, reuse_port=True))) as second:
            assert second.getsockname()[1] == port


def test_a_listener_that_does_not_share_is_named() -> None:
    with listen(0, is_shared=False) as taken:
        port = taken.getsockname()[1]
        for is_shared in (False, True):
            with pytest.raises(ConfigError, match=f"{port}: can't listen"):
                hold_port(ServerConfig(port=port, reuse_port=is_shared))


@pytest.mark.parametrize("host", ["no.such.host.invalid", "two..dots", "long" * 16, "nul\0"])
def test_a_host_that_is_none_is_named(host: str) -> None:
    with pytest.raises(ConfigError, match=rf"^address {host}:0: can't listen on it"):
        hold_port(ServerConfig(host=host, port=0))


def test_a_system_that_can_not_share_ports_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    with pytest.raises(ConfigError, match=r"^processes: got several; must be 1 on this system"):
        hold_port(ServerConfig(port=0))

"""A server in this very process, so that what is inside it can be timed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cascade_serve.engine.opening import OpeningConfig
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.rpc.server import ServerConfig
from cascade_serve.serving import ServeConfig, ServingProcess


@contextmanager
def serve_here(repository: Path, engine: EngineConfig) -> Iterator[ServingProcess]:
    """Serve a repository on free ports of loopback, on ONNX Runtime; stopped in the end."""
    opening = OpeningConfig(engine=engine)
    server = ServingProcess(
        ServeConfig(repository=repository, server=ServerConfig(port=0), opening=opening, metrics_port=0)
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()

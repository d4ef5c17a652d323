"""One process of the server: repository, engines, metrics and gRPC server, started and stopped in order."""

from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry

from cascade_serve.bundle import Bundle
from cascade_serve.engine.opening import OpeningConfig, open_engine
from cascade_serve.engine.protocol import Engine
from cascade_serve.errors import ConfigError
from cascade_serve.metrics import Metrics, MetricsServer
from cascade_serve.repository import BundleRepository, ServedBundle
from cascade_serve.rpc.server import Server, ServerConfig

_MAX_WAIT_S = 86_400


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """All that ``serve`` needs to know.

    Attributes:
        repository: folder of ``<cascade>/<version>/``.
        server: the gRPC side.
        opening: the engines.
        metrics_port: where metrics are scraped, on the server's host; 0 takes a free one.
        watch_interval_s: seconds between looks at the repository; 0 never looks again.
        drain_timeout_s: seconds that requests get to end at a stop or a swap.
        stop_notice_s: seconds that requests are still taken after the health service says NOT_SERVING.
    """

    repository: Path
    server: ServerConfig = field(default_factory=ServerConfig)
    opening: OpeningConfig = field(default_factory=OpeningConfig)
    metrics_port: int = 8002
    watch_interval_s: float = 2.0
    drain_timeout_s: float = 30.0
    stop_notice_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("watch_interval_s", "drain_timeout_s", "stop_notice_s"):
            if not 0 <= getattr(self, name) <= _MAX_WAIT_S:
                raise ValueError(f"{name}: got {getattr(self, name)}; must be between 0 and {_MAX_WAIT_S}, a day")


class ServingProcess:
    """One process of the server: everything between the signals and the sockets.

    Args:
        config: all of it.

    Raises:
        ConfigError: an address can't be listened on, or a certificate can't be read.
    """

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._metrics = Metrics(CollectorRegistry())
        self.repository = BundleRepository(
            config.repository, self._open, listener=self, drain_timeout_s=config.drain_timeout_s
        )
        self.server = Server(self.repository, self._metrics, config.server)
        try:
            self.metrics_server = MetricsServer(
                self._metrics.registry, host=config.server.host, port=config.metrics_port
            )
        except ConfigError:
            self.server.stop()
            raise

    def start(self) -> None:
        """Listen first, so that probes see NOT_SERVING meanwhile, then load and warm every cascade.

        Raises:
            BundleError: the repository is empty, or a bundle can't be loaded.
        """
        self.server.start()
        self.repository.load_all()
        if self._config.watch_interval_s:
            self.repository.watch(self._config.watch_interval_s)

    def stop(self) -> None:
        """Drain and stop, in the order that loses no accepted request."""
        self.server.stop(grace_s=self._config.drain_timeout_s, notice_s=self._config.stop_notice_s)
        self.repository.close()
        self.metrics_server.close()

    def swapped_in(self, served: ServedBundle) -> None:
        """Follow the repository; see :class:`~cascade_serve.repository.Listener`."""
        engine = served.engine
        self._metrics.set_version(served.name, served.version)
        self._metrics.track_rows(
            served.name,
            {
                "waiting": lambda: max(0, engine.rows_in_flight - engine.rows_running),
                "running": lambda: engine.rows_running,
            },
        )
        self.server.refresh_health()

    def leaving(self, cascade: str) -> None:  # noqa: ARG002  # health is told of all at once
        """Follow the repository; see :class:`~cascade_serve.repository.Listener`."""
        self.server.refresh_health()

    def removed(self, cascade: str) -> None:
        """Follow the repository; see :class:`~cascade_serve.repository.Listener`."""
        self._metrics.remove(cascade)
        self.server.refresh_health()

    def _open(self, bundle: Bundle) -> Engine:
        return open_engine(bundle, self._config.opening, self._metrics.observer(bundle.name, bundle.plan))

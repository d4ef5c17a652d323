"""What answers in a process: repository, engines, metrics and gRPC server, started and stopped in order."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry

from cascade_serve.bundle import Bundle
from cascade_serve.engine.opening import OpeningConfig, open_engine
from cascade_serve.engine.protocol import Engine
from cascade_serve.errors import ConfigError
from cascade_serve.metrics import Metrics, MetricsServer
from cascade_serve.repository import BundleRepository, ServedBundle
from cascade_serve.rpc.ports import RegionControl, Repository, Siblings
from cascade_serve.rpc.server import Server, ServerConfig

_MAX_WAIT_S = 86_400
_MAX_PROCESSES = 256


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
        processes: front-end processes that share the port, each with engines of its own; all other bounds are of one
            process. With more than one, metrics are those of a parent that sums them up.
    """

    repository: Path
    server: ServerConfig = field(default_factory=ServerConfig)
    opening: OpeningConfig = field(default_factory=OpeningConfig)
    metrics_port: int = 8002
    watch_interval_s: float = 2.0
    drain_timeout_s: float = 30.0
    stop_notice_s: float = 0.0
    processes: int = 1

    def __post_init__(self) -> None:
        for name in ("watch_interval_s", "drain_timeout_s", "stop_notice_s"):
            if not 0 <= getattr(self, name) <= _MAX_WAIT_S:
                raise ValueError(f"{name}: got {getattr(self, name)}; must be between 0 and {_MAX_WAIT_S}, a day")
        if not 1 <= self.processes <= _MAX_PROCESSES:
            raise ValueError(f"processes: got {self.processes}; must be between 1 and {_MAX_PROCESSES}")


class House(Siblings, RegionControl, Protocol):
    """The other processes that answer on the same port."""

    def share(self, repository: BundleRepository) -> Repository:
        """Give what callers see of a process's own repository: its answers, in the name of all processes."""
        ...

    def noted(self) -> None:
        """The process's own repository may have changed."""
        ...


class FrontEnd:
    """Repository, engines and gRPC server of one process, with metrics that somebody else lets be scraped.

    Args:
        config: all of it.
        house: the other processes on the same port; None is alone.
    """

    def __init__(self, config: ServeConfig, house: House | None = None) -> None:
        self._config = config
        self._house = house
        self._server: Server | None = None
        self.metrics = Metrics(CollectorRegistry())
        self.repository = BundleRepository(
            config.repository, self._open, listener=self, drain_timeout_s=config.drain_timeout_s
        )

    @property
    def is_listening(self) -> bool:
        """The port has been taken."""
        return self._server is not None

    @property
    def server(self) -> Server:
        """The gRPC side, once it listens."""
        assert self._server is not None
        return self._server

    def listen(self) -> None:
        """Take the port; nothing is answered before :meth:`start` or :meth:`answer`.

        Raises:
            ConfigError: the address can't be listened on, or a certificate can't be read.
        """
        house = self._house
        repository = self.repository if house is None else house.share(self.repository)
        control = house if self._config.server.allow_shared_memory else None
        self._server = Server(repository, self.metrics, self._config.server, region_control=control, siblings=house)

    def start(self) -> None:
        """Answer first, so that probes see NOT_SERVING meanwhile, then load and warm every cascade.

        Raises:
            BundleError: the repository is empty, or a bundle can't be loaded.
        """
        self.server.start()
        self.repository.load_all()
        self._watch()

    def answer(self) -> None:
        """Answer from a repository that is loaded already."""
        self.server.start()
        self._watch()

    def drain(self) -> None:
        """Take no more requests, and wait for those inside; counts stay."""
        if self._server is not None:
            self._server.stop(grace_s=self._config.drain_timeout_s, notice_s=self._config.stop_notice_s)

    def close(self) -> None:
        """Let the engines go; after :meth:`drain` no accepted request is lost."""
        self.repository.close()

    def noted(self) -> None:
        """Follow the repository; see :class:`~cascade_serve.repository.Listener`."""
        self.refresh_health()
        if self._house is not None:
            self._house.noted()

    def swapped_in(self, served: ServedBundle) -> None:
        """Follow the repository; see :class:`~cascade_serve.repository.Listener`."""
        engine = served.engine
        self.metrics.set_version(served.name, served.version)
        self.metrics.track_rows(
            served.name,
            {
                "waiting": lambda: max(0, engine.rows_in_flight - engine.rows_running),
                "running": lambda: engine.rows_running,
            },
        )
        self.refresh_health()

    def leaving(self, cascade: str) -> None:  # noqa: ARG002  # health is told of all at once
        """Follow the repository; see :class:`~cascade_serve.repository.Listener`."""
        self.refresh_health()

    def removed(self, cascade: str) -> None:
        """Follow the repository; see :class:`~cascade_serve.repository.Listener`."""
        self.metrics.remove(cascade)
        self.refresh_health()

    def refresh_health(self) -> None:
        """Tell those who watch the health service what has changed."""
        if self._server is not None:
            self._server.refresh_health()

    def _watch(self) -> None:
        if self._config.watch_interval_s:
            self.repository.watch(self._config.watch_interval_s)

    def _open(self, bundle: Bundle) -> Engine:
        return open_engine(bundle, self._config.opening, self.metrics.observer(bundle.name, bundle.plan))


class ServingProcess:
    """The server in one process: everything between the signals and the sockets.

    Args:
        config: all of it.

    Raises:
        ConfigError: an address can't be listened on, or a certificate can't be read.
    """

    def __init__(self, config: ServeConfig) -> None:
        self._front_end = FrontEnd(config)
        self._front_end.listen()
        self.repository = self._front_end.repository
        self.server = self._front_end.server
        try:
            self.metrics_server = MetricsServer(
                self._front_end.metrics.registry, host=config.server.host, port=config.metrics_port
            )
        except ConfigError:
            self.server.stop()
            raise

    def start(self) -> None:
        """Listen first, so that probes see NOT_SERVING meanwhile, then load and warm every cascade.

        Raises:
            BundleError: the repository is empty, or a bundle can't be loaded.
        """
        self._front_end.start()

    def stop(self) -> None:
        """Drain and stop, in the order that loses no accepted request."""
        self._front_end.drain()
        self._front_end.close()
        self.metrics_server.close()

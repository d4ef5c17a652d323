"""A server on loopback over a real repository, whose engine the tests can swap: see ``open_engine``."""

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_engine import CASCADE, MEMBERS, FakeEngine, as_fake, make_plan, open_committee
from prometheus_client import CollectorRegistry
from served_cascade import OpenEngine, ServeCascade, ServedCascade

from cascade_serve import Client
from cascade_serve.bundle import Bundle, write_bundle
from cascade_serve.core.plan import Plan
from cascade_serve.engine.protocol import Engine
from cascade_serve.metrics import Metrics
from cascade_serve.repository import BundleRepository, ServedBundle
from cascade_serve.rpc.server import Server, ServerConfig

_HOLDING = {"fake", "own_fake"}
"""Fixtures of tests that hold the engine or make it fail, which the real one can't be made to."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what no machine could run: holding the real engine."""
    impossible = {item for item in items if isinstance(item, pytest.Function) and _holds_the_real_engine(item)}
    config.hook.pytest_deselected(items=[item for item in items if item in impossible])
    items[:] = [item for item in items if item not in impossible]


def _holds_the_real_engine(item: pytest.Function) -> bool:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return parameters.get("open_engine") is open_committee and not _HOLDING.isdisjoint(item.fixturenames)


@pytest.fixture(scope="session")
def plan(repository_root: Path) -> Plan:
    return make_plan(_graph_files(repository_root.parent / "source"))


def _graph_files(folder: Path) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    graph = folder / "model.onnx"
    graph.write_bytes(b"not a graph; the engine in these tests reads none")
    return {"model.onnx": hashlib.sha256(graph.read_bytes()).hexdigest()}


@pytest.fixture(scope="session")
def repository_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving")
    source = folder / "source"
    plan = make_plan(_graph_files(source))
    write_bundle(folder / "repository" / CASCADE / "3", plan, dict.fromkeys(MEMBERS, source))
    return folder / "repository"


@pytest.fixture(scope="session", params=[FakeEngine, open_committee], ids=["fake", "committee"])
def open_engine(request: pytest.FixtureRequest) -> OpenEngine:
    """What makes the engine behind ``served``: the same tests run on one that can be held, and on the real one."""
    opener: OpenEngine = request.param
    return opener


class _Wiring:
    """Tells metrics and health of the repository's changes."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.server: Server | None = None

    def noted(self) -> None:
        pass

    def swapped_in(self, served: ServedBundle) -> None:
        engine = served.engine
        self.metrics.set_version(served.name, served.version)
        self.metrics.track_rows(
            served.name,
            {
                "waiting": lambda: engine.rows_in_flight - engine.rows_running,
                "running": lambda: engine.rows_running,
            },
        )
        if self.server is not None:
            self.server.refresh_health()

    def leaving(self, cascade: str) -> None:
        if self.server is not None:
            self.server.refresh_health()

    def removed(self, cascade: str) -> None:
        self.metrics.remove(cascade)
        if self.server is not None:
            self.server.refresh_health()


@pytest.fixture(scope="session")
def serve_cascade(repository_root: Path, plan: Plan, open_engine: OpenEngine) -> Iterator[ServeCascade]:
    """Start servers; all are stopped in the end."""
    running: list[ServedCascade] = []

    def serve(config: ServerConfig) -> ServedCascade:
        metrics, engines = Metrics(CollectorRegistry()), []

        def open_bundle(bundle: Bundle) -> Engine:
            engines.append(open_engine(bundle, metrics.observer(bundle.name, bundle.plan)))
            return engines[-1]

        wiring = _Wiring(metrics)
        repository = BundleRepository(repository_root, open_bundle, listener=wiring, drain_timeout_s=5)
        repository.load_all()
        server = wiring.server = Server(repository, metrics, config)
        server.start()
        address = f"127.0.0.1:{server.port}"
        served = ServedCascade(
            address=address,
            client=Client(address, timeout_s=20),
            plan=plan,
            metrics=metrics,
            server=server,
            repository=repository,
            engines=engines,
        )
        running.append(served)
        return served

    yield serve
    for served in running:
        served.client.close()
        served.server.stop()
        served.repository.close()


@pytest.fixture(scope="module")
def served(serve_cascade: ServeCascade) -> ServedCascade:
    """A server that the tests of a module share."""
    return serve_cascade(
        ServerConfig(port=0, max_in_flight_requests=8, max_message_bytes=1 << 20, allow_repository_control=True)
    )


@pytest.fixture
def fake(served: ServedCascade) -> Iterator[FakeEngine]:
    """The engine of ``served``, for tests that hold it or make it fail; it is set right again afterwards."""
    engine = as_fake(served.engines[-1])
    engine.num_cancelled = 0
    yield engine
    engine.failure = None
    engine.pause_s = 0.0
    engine.release()


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

"""What the fixtures of tests/integration give: a running server, and how to start one."""

from collections.abc import Callable
from dataclasses import dataclass

from cascade_serve import Client
from cascade_serve.bundle import Bundle
from cascade_serve.core.plan import Plan
from cascade_serve.engine.protocol import Engine, Observer
from cascade_serve.metrics import Metrics
from cascade_serve.repository import BundleRepository
from cascade_serve.rpc.server import Server, ServerConfig

OpenEngine = Callable[[Bundle, Observer], Engine]


@dataclass(kw_only=True)
class ServedCascade:
    """A running server and what a test may want of it; ``engines`` are all that were opened, the newest last."""

    address: str
    client: Client
    plan: Plan
    metrics: Metrics
    server: Server
    repository: BundleRepository
    engines: list[Engine]

    def metric(self, name: str, **labels: str) -> float:
        """Give a sample's value, 0 where there is none yet."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


ServeCascade = Callable[[ServerConfig], ServedCascade]

"""Ray Serve's model composition: an ingress deployment that asks one deployment a member."""

import itertools
from collections.abc import Mapping

from benchmarks.peers.peer import INSIDE, Assignment, Engine, Server, computes, free_port, launch, python_of
from benchmarks.peers.wire import WireName

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
_TUNING = {
    # What its guide calls high throughput mode: HAProxy in front, gRPC between replicas, user code on the main loop.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Its workers would stand back behind every other process of the machine.
    "RAY_worker_niceness": "0",
}
_PORTS = ("RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT")
_FIRST_REPLICA_PORT = 10_000
_REPLICA_PORTS = 50


class RayServe:
    """Its documentation: composition by handles, gRPC ingress, a replica a core."""

    name = "ray"
    wire = WireName.WRAPPED_BYTES
    computes = computes(Engine.ONNX_RUNTIME)
    _tuning: Mapping[str, str] = _TUNING
    _starts = itertools.count()

    def describe(self) -> str:
        """Say how it is set up."""
        return "composition of three deployments, a replica a core of each, gRPC ingress, high throughput mode"

    def start(self, assignment: Assignment) -> Server:
        """Start a Ray of its own with the application."""
        port = free_port()
        ports = {name: str(free_port()) for name in _PORTS}
        # Two clusters would otherwise share the ports of their replicas, and get each other's requests.
        first = _FIRST_REPLICA_PORT + 2 * _REPLICA_PORTS * next(RayServe._starts)
        for protocol, start in (("GRPC", first), ("HTTP", first + _REPLICA_PORTS)):
            ports[f"RAY_SERVE_DIRECT_INGRESS_MIN_{protocol}_PORT"] = str(start)
            ports[f"RAY_SERVE_DIRECT_INGRESS_MAX_{protocol}_PORT"] = str(start + _REPLICA_PORTS - 1)
        command = [python_of("ray"), INSIDE / "ray_app.py"]
        settings = {**assignment.settings(port), **_QUIET, **self._tuning, **ports}
        return launch(assignment.folder, command, settings, port)


class RayServeDefaults(RayServe):
    """The same application with Ray's own settings: what its guides change for speed is not changed."""

    name = "ray-defaults"
    _tuning: Mapping[str, str] = {}

    def describe(self) -> str:
        """Say how it is set up."""
        return "composition of three deployments, a replica a core of each, gRPC ingress, Ray's defaults otherwise"

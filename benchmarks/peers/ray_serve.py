"""Ray Serve's model composition: an ingress deployment that asks one deployment a member."""

from benchmarks.peers.peer import INSIDE, Assignment, Engine, Server, computes, free_port, launch, python_of
from benchmarks.peers.wire import WireName

_TUNING = {
    # What its guide calls high throughput mode: HAProxy in front, gRPC between replicas, user code on the main loop.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    # Its workers would stand back behind every other process of the machine.
    "RAY_worker_niceness": "0",
}


class RayServe:
    """Its documentation: composition by handles, gRPC ingress, a replica a core."""

    name = "ray"
    wire = WireName.WRAPPED_BYTES
    computes = computes(Engine.ONNX_RUNTIME)

    def describe(self) -> str:
        """Say how it is set up."""
        return "composition of three deployments, a replica a core of each, gRPC ingress, high throughput mode"

    def start(self, assignment: Assignment) -> Server:
        """Start a Ray of its own with the application."""
        port = free_port()
        names = ("RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT")
        ports = {name: str(free_port()) for name in names}
        command = [python_of("ray"), INSIDE / "ray_app.py"]
        return launch(assignment.folder, command, {**assignment.settings(port), **_TUNING, **ports}, port)

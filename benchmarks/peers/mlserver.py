"""MLServer with a custom runtime, and a pool of as many workers as cores."""

import json
from pathlib import Path

from benchmarks.peers.peer import Assignment, Engine, Server, computes, free_port, launch, python_of
from benchmarks.peers.wire import WireName


class MlServer:
    """Its documentation: a custom inference runtime; ``parallel_workers`` the number of cores; ``debug`` off.

    Adaptive batching stays off: it has requests wait, and the engines gain nothing by larger batches here.
    """

    name = "mlserver"
    wire = WireName.OPEN_INFERENCE_BYTES
    computes = computes(Engine.ONNX_RUNTIME)

    def describe(self) -> str:
        """Say how it is set up."""
        return "custom runtime with the cascade, a parallel worker a core, debug off, images as BYTES"

    def start(self, assignment: Assignment) -> Server:
        """Write its settings, and start it."""
        port = free_port()
        settings = {
            "debug": False,
            "host": "127.0.0.1",
            "grpc_port": port,
            "http_port": free_port(),
            "metrics_port": free_port(),
            "parallel_workers": assignment.workers,
            "gzip_enabled": False,
        }
        model = {"name": "cascade", "implementation": "mlserver_runtime.CascadeRuntime"}
        (assignment.folder / "settings.json").write_text(json.dumps(settings))
        (assignment.folder / "model-settings.json").write_text(json.dumps(model))
        command: list[str | Path] = [python_of("mlserver").with_name("mlserver"), "start", "."]
        return launch(assignment.folder, command, assignment.settings(port), port)

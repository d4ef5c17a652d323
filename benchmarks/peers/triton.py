"""Triton with its Python backend, the one that installs without a container; three ways to have a cascade in it."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers.peer import INSIDE, Assignment, Engine, Server, computes, free_port, launch, python_of
from benchmarks.peers.wire import WireName

_MAX_BATCH_SIZE = 64
_PROBABILITIES = '{ name: "probabilities" data_type: TYPE_FP32 dims: [-1] }'
_ANSWER = '{ name: "label" data_type: TYPE_INT64 dims: [1] }, { name: "confidence" data_type: TYPE_FP32 dims: [1] }'
_LIBRARIES = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"


Write = Callable[[Path, Assignment], None]
"""Writes a model repository."""


class Triton:
    """A model repository of Python models, served by the real server.

    Its documentation: an instance a core, dynamic batching on.

    Args:
        name: of the peer.
        wire: how it is asked.
        shape: where the cascade is, in words.
        write: the repository.
    """

    computes = computes(Engine.ONNX_RUNTIME, Engine.OPENVINO)

    def __init__(self, name: str, wire: WireName, shape: str, write: Write) -> None:
        self.name = name
        self.wire = wire
        self._shape = shape
        self._write = write

    def describe(self) -> str:
        """Say how it is set up."""
        return f"Python backend; {self._shape}; an instance a core of each model, dynamic batching"

    def start(self, assignment: Assignment) -> Server:
        """Write the repository, and start the server."""
        port = free_port()
        models = assignment.folder / "models"
        shutil.rmtree(models, ignore_errors=True)
        self._write(models, assignment)
        python = python_of("triton")
        package = Path(_ask(python, "import pytriton; print(pytriton.__path__[0])"))
        backends = _copy_backend(package, python, assignment.folder)
        command: list[str | Path] = [
            package / "tritonserver" / "bin" / "tritonserver",
            f"--model-repository={models.resolve()}",
            f"--backend-directory={backends.resolve()}",
            "--allow-http=false",
            "--allow-metrics=false",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={port}",
            "--log-info=false",
        ]
        environment = assignment.settings(port)
        environment["LD_LIBRARY_PATH"] = f"{package.parent / 'nvidia_pytriton.libs'}:{_ask(python, _LIBRARIES)}"
        # The backend embeds whatever interpreter comes first.
        environment["PATH"] = f"{python.parent}:/usr/bin:/bin"
        environment["PYTHONPATH"] += f":{package.parent}"
        return launch(assignment.folder, command, environment, port)


def triton_script() -> Triton:
    """Script the cascade in the server, over members that are models of their own."""

    def write(models: Path, assignment: Assignment) -> None:
        _write_members(models, assignment)
        _write_model(models, "cascade", "triton_script.py", _ANSWER, assignment)

    return Triton("triton-script", WireName.OPEN_INFERENCE, "cascade scripted in a model over two models", write)


def triton_inline() -> Triton:
    """Put the cascade inside one Python model, without a hop in between."""

    def write(models: Path, assignment: Assignment) -> None:
        _write_model(models, "cascade", "triton_inline.py", _ANSWER, assignment)

    return Triton("triton-inline", WireName.OPEN_INFERENCE, "one model with the whole cascade inside", write)


def triton_client() -> Triton:
    """Have members as models of their own; the client asks the second about what the first is not sure of."""
    return Triton("triton-client", WireName.IN_CLIENT, "two models, and the cascade in the client", _write_members)


def _write_members(models: Path, assignment: Assignment) -> None:
    for stage in range(len(assignment.graphs)):
        _write_model(models, f"member{stage}", "triton_member.py", _PROBABILITIES, assignment, stage=stage)


def _write_model(
    models: Path, name: str, source: str, outputs: str, assignment: Assignment, *, stage: int | None = None
) -> None:
    version = models / name / "1"
    version.mkdir(parents=True)
    shutil.copyfile(INSIDE / source, version / "model.py")
    shutil.copyfile(INSIDE / "hand_written.py", version / "hand_written.py")
    shape = ", ".join(str(size) for size in assignment.image_shape)
    lines = [
        f'name: "{name}"',
        'backend: "python"',
        f"max_batch_size: {_MAX_BATCH_SIZE}",
        f'input [ {{ name: "images" data_type: TYPE_UINT8 dims: [{shape}] }} ]',
        f"output [ {outputs} ]",
        f"instance_group [ {{ count: {assignment.workers} kind: KIND_CPU }} ]",
        "dynamic_batching { }",
    ]
    if stage is not None:
        lines.append(f'parameters {{ key: "stage" value: {{ string_value: "{stage}" }} }}')
    (models / name / "config.pbtxt").write_text("\n".join(lines) + "\n")


def _copy_backend(package: Path, python: Path, folder: Path) -> Path:
    """Put the backend's library and the stub for the interpreter's version side by side, as the server wants them."""
    backends = folder / "backends"
    target = backends / "python"
    shutil.rmtree(backends, ignore_errors=True)
    shutil.copytree(package / "tritonserver" / "backends" / "python", target)
    stub = "triton_python_backend_stub"
    shutil.copy(package / "tritonserver" / "python_backend_stubs" / _ask(python, _VERSION) / stub, target / stub)
    return backends


def _ask(python: Path, program: str) -> str:
    return subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout.strip()

"""Serving needs no torch: a real server and client in environments that hold the locked serving packages alone."""

import json
import re
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path

import pytest
from linear_zoo import write_linear_member
from onnx_bundle import CLASSES, write_linear_bundle
from packaging.requirements import Requirement
from PIL import Image

from model_zoo.store import read_member

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements" / "serve-cpu.txt"
CASCADE = "tiny"
COMMAND = ("-I", "-c", "from cascade_serve.cli.app import main; main()")
ABSENT = ("torch", "torchvision", "timm", "ray", "onnx", "onnxscript", "scipy", "matplotlib", "sklearn")
TIMEOUT_S = 60


def _make_venv(folder: Path) -> Path:
    venv.create(folder, symlinks=True)
    return folder / "bin" / "python"


def _locked() -> Iterator[Requirement]:
    for line in LOCK.read_text().splitlines():
        if line and not line.startswith((" ", "#")):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate():
                yield requirement


def _link_packages(site: Path) -> None:
    """Show a new environment the locked packages of ours, file by file, and the project: no network, no copies."""
    for requirement in _locked():
        package = distribution(requirement.name)
        assert requirement.specifier.contains(package.version), f"{requirement} is locked; {package.version} installed"
        for file in package.files or ():
            if file.parts[0] != ".." and file.suffix != ".pyc":
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                (site / file).symlink_to(file.locate())
    for package_name in ("cascade_serve", "model_zoo"):
        (site / package_name).symlink_to(ROOT / package_name)


@pytest.fixture(scope="module")
def linked_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("linked")
    python = _make_venv(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    _link_packages(site)
    return python


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    write_linear_bundle(folder / "repository" / CASCADE / "1", folder / "sources")
    return folder / "repository"


def _run(python: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, *COMMAND, *map(str, arguments)], capture_output=True, encoding="utf-8", timeout=TIMEOUT_S, check=False
    )


@contextmanager
def _serving(python: Path, repository: Path) -> Iterator[str]:
    """Run ``serve``, give its address, and see that it stops cleanly."""
    command = [str(python), *COMMAND, "serve", str(repository), "--port", "0", "--metrics-port", "0", "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"gRPC on (127\.0\.0\.1:\d+)", line)
            assert found, line
            yield found[1]
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT_S) == 0
        finally:
            process.kill()


def _check_serving(python: Path, repository: Path, image: Path) -> None:
    for name in ABSENT:
        done = subprocess.run(
            [python, "-I", "-c", f"import {name}"], capture_output=True, encoding="utf-8", check=False
        )
        assert f"No module named '{name}'" in done.stderr
    Image.new("RGB", (9, 7), (5, 0, 3)).save(image)
    with _serving(python, repository) as url:
        health = _run(python, "health", "--url", url, "--model", CASCADE)
        assert (health.returncode, health.stdout) == (0, "SERVING\n"), health.stderr
        answer = _run(python, "infer", image, "--url", url, "--model", CASCADE, "--json")
        assert answer.returncode == 0, answer.stderr
        (row,) = json.loads(answer.stdout)["images"]
        assert row["class"] in CLASSES
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        bench = _run(python, "bench", "--url", url, "--model", CASCADE, "--count", 20, "--warm-up", 0, "--json", "-")
        assert json.loads(bench.stdout)["requests"] == 20, bench.stderr


def test_serving_runs_on_the_locked_packages_alone(linked_python: Path, repository: Path, tmp_path: Path) -> None:
    _check_serving(linked_python, repository, tmp_path / "image.png")


def test_commands_that_need_more_say_what_to_install(linked_python: Path, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name / "0.png")
    zoo = ("--task", "pets", "--zoo", tmp_path / "zoo", "--data", tmp_path / "images")
    ended = _run(linked_python, "zoo", "add", "net", *zoo, "--arch", "cifar_resnet20")
    assert ended.returncode == 2, ended.stderr
    assert "pip install 'cascade-serve[" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_members_for_onnx_runtime_are_timed_without_torch(linked_python: Path, tmp_path: Path) -> None:
    task_path = tmp_path / "zoo" / "pets"
    write_linear_member(task_path, "linear", 1)
    write_linear_member(task_path, "net", 1, engine="torch")
    options = ("--batch-sizes", "1,2", "--seconds-per-size", "0.01", "--rounds", "1")
    ended = _run(linked_python, "zoo", "profile", task_path, "linear", *options)
    assert ended.returncode == 0, ended.stderr
    assert set(read_member(task_path / "linear").card.cost.seconds or {}) == {1, 2}
    ended = _run(linked_python, "zoo", "profile", task_path, *options)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "torch is not installed; install it with: pip install 'cascade-serve[torch]'" in ended.stderr


@pytest.mark.slow
def test_serving_runs_where_the_lock_was_installed(repository: Path, tmp_path: Path) -> None:
    """As the Dockerfile installs it: the lock from the package index, then the project's wheel without dependencies."""
    python = _make_venv(tmp_path / "venv")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check"]
    # The lock is complete, which the check shows, so nothing needs resolving; compiling would cost more than it saves.
    install = ["install", "--no-deps", "--no-compile"]
    for arguments in ([*install, "--requirement", str(LOCK)], [*install, str(ROOT)], ["check"]):
        done = subprocess.run([*pip, *arguments], capture_output=True, encoding="utf-8", check=False)
        if done.returncode and "after connection broken by" in done.stderr:
            pytest.skip("needs a package index, and pip can't reach one")
        assert done.returncode == 0, done.stdout + done.stderr
    assert (python.parent / "cascade-serve").exists()
    _check_serving(python, repository, tmp_path / "image.png")


def test_core_loads_numpy_and_the_standard_library_alone() -> None:
    program = """
import importlib, pkgutil, sys
import cascade_serve.core as core
for module in pkgutil.iter_modules(core.__path__, "cascade_serve.core."):
    importlib.import_module(module.name)
print(*{name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names))
"""
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, encoding="utf-8", check=True)
    loaded = {name for name in done.stdout.split() if not name.startswith("_")}
    assert loaded == {"numpy", "cascade_serve"}

"""The Dockerfile, as far as it can be checked without Docker: its rules, its files, and the command that it starts."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


class Instruction(NamedTuple):
    """One instruction, its continuation lines joined."""

    name: str
    text: str


@pytest.fixture(scope="module")
def instructions() -> list[Instruction]:
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def runtime(instructions: list[Instruction]) -> list[Instruction]:
    """The instructions of the last stage, which is the image."""
    last = max(index for index, instruction in enumerate(instructions) if instruction.name == "FROM")
    return instructions[last:]


def _only(instructions: list[Instruction], name: str) -> str:
    (text,) = [instruction.text for instruction in instructions if instruction.name == name]
    return text


def test_base_images_are_pinned_and_every_variant_has_one(instructions: list[Instruction]) -> None:
    stages = [instruction.text.split() for instruction in instructions if instruction.name == "FROM"]
    bases = {name: image for image, _, name in stages if "${" not in image}
    assert set(bases) == {"base-cpu", "base-gpu"}
    for image in bases.values():
        assert re.fullmatch(r"[a-z/]+:\d[\w.-]+", image), image
    # CUDA's major version, and cuDNN 9, are what the locked onnxruntime-gpu links against.
    assert re.match(r"nvidia/cuda:13\..*-cudnn-runtime-", bases["base-gpu"])


def test_it_runs_as_a_user_without_rights(runtime: list[Instruction]) -> None:
    uid, gid = _only(runtime, "USER").split(":")
    assert int(uid) >= 10_000
    assert int(gid) >= 10_000
    creates = next(text for name, text in runtime if name == "RUN")
    assert f"--uid {uid}" in creates
    assert f"--gid {gid}" in creates


def test_signals_reach_the_server(runtime: list[Instruction]) -> None:
    assert json.loads(_only(runtime, "ENTRYPOINT")) == ["cascade-serve", "serve", "/models", "--host", "0.0.0.0"]
    assert _only(runtime, "STOPSIGNAL") == "SIGTERM"
    assert _only(runtime, "EXPOSE") == "8001 8002"


def test_health_is_asked_by_the_commands_own_health_check(runtime: list[Instruction]) -> None:
    command = _only(runtime, "HEALTHCHECK").partition("CMD ")[2]
    assert json.loads(command) == ["cascade-serve", "health", "--url", "127.0.0.1:8001"]


def test_every_copied_file_exists_and_is_in_the_context(instructions: list[Instruction]) -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copies = [text for name, text in instructions if name == "COPY" and "--from" not in text]
    sources = [source for text in copies for source in text.split()[:-1]]
    assert sources
    for source in sources:
        for variant in ("cpu", "gpu"):
            path = Path(source.replace("${VARIANT}", variant))
            assert (ROOT / path).exists(), path
            assert any(path.match(pattern) for pattern in allowed), path


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_neither_torch_nor_ray_is_installed(variant: str) -> None:
    lock = (ROOT / "requirements" / f"serve-{variant}.txt").read_text()
    names = {line.split("==")[0] for line in lock.splitlines() if "==" in line}
    assert {"numpy", "grpcio", "onnxruntime" if variant == "cpu" else "onnxruntime-gpu"} <= names
    assert not names & {"torch", "torchvision", "timm", "ray", "onnxscript", "scipy", "matplotlib"}
    assert not any(name.startswith("nvidia-") for name in names)


def test_locks_hold_every_requirement_and_tell_no_address() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {re.split(r"[\[<>=; ]", requirement)[0] for requirement in project["dependencies"]}
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        text = path.read_text()
        pinned = {line.split("==")[0] for line in text.splitlines() if "==" in line}
        assert required <= pinned, path
        assert "://" not in text, path
        assert "index" not in text, path


def test_the_linter_has_no_complaint() -> None:
    hadolint = shutil.which("hadolint", path=str(ROOT / ".venv" / "bin")) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed; requirements/dev.txt has it for Linux on x86-64 alone")
    result = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, encoding="utf-8", check=False)
    assert (result.stdout, result.returncode) == ("", 0)

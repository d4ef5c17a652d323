"""``cascade-serve serve`` as an operator meets it: a process with ports, signals and exit codes."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx_bundle import IMAGE_SHAPE, write_linear_bundle

from cascade_serve import Client

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_linear_bundle(tmp_path / "repository" / "linear" / "1", tmp_path / "one")
    return tmp_path / "repository"


@pytest.fixture
def start() -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []

    def run(*arguments: object) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "cascade_serve", "serve", *map(str, arguments)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def address_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    match = re.fullmatch(r"serving gRPC on (\S+:\d+), metrics on http://\S+:\d+/metrics\n", line)
    assert match is not None, line
    return match[1]


def test_it_serves_swaps_and_stops(start: Start, repository: Path, tmp_path: Path) -> None:
    process = start(repository, "--port", 0, "--metrics-port", 0, "--watch-interval-s", 0)
    image_HWC = np.full(IMAGE_SHAPE, 9, dtype=np.uint8)
    with Client(address_of(process), timeout_s=20) as client:
        assert client.infer(image_HWC, model="linear").model_version == "1"
        write_linear_bundle(repository / "linear" / "2", tmp_path / "two", seed=1)
        process.send_signal(signal.SIGHUP)
        versions = iter(lambda: client.infer(image_HWC, model="linear").model_version, "2")
        assert sum(1 for _ in versions) < 10_000
        client.wait_until_serving("linear", timeout_s=10)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert output == ""
    assert "cascade 'linear' version 2 is served" in errors
    assert "Traceback" not in errors


def test_a_signal_ends_the_loading(start: Start, tmp_path: Path) -> None:
    for number in range(20):
        write_linear_bundle(tmp_path / "repository" / f"c{number}" / "1", tmp_path / "sources" / str(number))
    process = start(tmp_path / "repository", "--port", 0, "--metrics-port", 0, "--workers", 8, "--max-batch-size", 256)
    assert process.stderr is not None
    assert "cascade 'c0' version 1 is served" in process.stderr.readline()
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert output == ""
    assert "stopping before every cascade was loaded" in errors
    assert "Traceback" not in errors


def test_a_second_sigterm_changes_nothing(start: Start, repository: Path) -> None:
    process = start(repository, "--port", 0, "--metrics-port", 0, "--stop-notice-s", 1)
    address_of(process)
    _stop_and_wait_for_the_notice(process, signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors


def test_a_second_ctrl_c_ends_at_once(start: Start, repository: Path) -> None:
    process = start(repository, "--port", 0, "--metrics-port", 0, "--stop-notice-s", 600)
    address_of(process)
    _stop_and_wait_for_the_notice(process, signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in errors


def _stop_and_wait_for_the_notice(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    process.send_signal(number)
    assert process.stderr is not None
    while "stopping: 0 requests in flight" not in process.stderr.readline():
        pass


REFUSED = [
    ([], r"repository.*holds no cascade"),
    (["--port", "70000"], r"port: got 70000; must be between 0 and 65535"),
    (["--workers", "1", "--max-batch-size", "0"], r"max_batch_size: got 0; must be at least 1"),
    (["--max-queue-rows", "4"], r"max_queue_rows: got 4; must be at least max_batch_size, 32"),
    (["--max-queue-rows", "1000000000000"], r"max_queue_rows: got 1000000000000; must be at most 16777216"),
    (["--threads-per-worker", "3000000000"], r"threads_per_worker: got 3000000000; must be at most 1024"),
    (["--workers", "3000000"], r"workers: got 3000000; must be at most 1024"),
    (["--max-queue-delay-s", "61"], r"max_queue_delay_s: got 61\.0; must be at least 0 and under 60"),
    (["--engine", "magic"], r"'--engine': Value error, 'magic' is not one of 'onnx'"),
    (["--device", "tpu"], r"'tpu' is not one of"),
    (["--tls-key", "key.pem"], r"--tls-certificate and --tls-key must be given together"),
    (["--tls-certificate", "a.pem", "--tls-key", "b.pem"], r"No such file"),
    (["--tls-certificate", __file__, "--tls-key", __file__], r"is a certificate no PEM, or the key another one's\?"),
    (["--drain-timeout-s", "inf"], r"drain_timeout_s: got inf; must be between 0 and 86400, a day"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_can_not_be_served_is_refused_with_exit_code_2(
    start: Start, tmp_path: Path, arguments: list[str], message: str
) -> None:
    empty = tmp_path / "repository"
    empty.mkdir()
    ports = [] if "--port" in arguments else ["--port", "0"]
    process = start(empty, *ports, "--metrics-port", 0, *arguments)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert output == ""
    assert re.search(message, " ".join(errors.split()))
    assert "Traceback" not in errors


def test_a_port_that_is_taken_is_named(start: Start, repository: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments in (["--port", port, "--metrics-port", 0], ["--port", 0, "--metrics-port", port]):
            process = start(repository, *arguments)
            _, errors = process.communicate(timeout=30)
            assert process.returncode == 2
            assert f"127.0.0.1:{port}" in errors
            assert "Traceback" not in errors


def test_two_processes_share_a_port(start: Start, repository: Path) -> None:
    address = address_of(start(repository, "--port", 0, "--metrics-port", 0, "--reuse-port"))
    port = address.rpartition(":")[2]
    other = start(repository, "--port", port, "--metrics-port", 0, "--reuse-port", "--max-connection-age-s", 60)
    assert address_of(other) == address


def test_the_device_that_this_machine_lacks_is_named(start: Start, repository: Path) -> None:
    process = start(repository, "--port", 0, "--metrics-port", 0, "--device", "cuda")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "device: got 'cuda'; this onnxruntime has only" in " ".join(errors.split())

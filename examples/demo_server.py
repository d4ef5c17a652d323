"""The demo's server: a child process that is always stopped, and its metrics."""

import select
import subprocess
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo_shell import DemoError, command_line, console, show_command
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from cascade_serve import Client

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Server:
    """The child process that serves.

    Attributes:
        process: the child.
        url: of gRPC, ``HOST:PORT``.
        metrics_url: of the metrics.
    """

    process: "subprocess.Popen[str]"
    url: str
    metrics_url: str


@contextmanager
def serving(repository: Path, log: Path) -> Iterator[Server]:
    """Serve a repository in a child process, and stop it whatever happens.

    Args:
        repository: what to serve.
        log: gets the server's log.

    Yields:
        the server, with every cascade warm.

    Raises:
        DemoError: it does not start in time, or does not stop as it should.
    """
    console.rule("3. Serve, and ask over gRPC", align="left")
    arguments = ("serve", repository, "--port", "0", "--metrics-port", "0")
    show_command(*arguments)
    with log.open("w", encoding="utf-8") as log_file:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command_line(*arguments), stdout=subprocess.PIPE, stderr=log_file, text=True
        )
    try:
        server = _await_server(process, log)
        yield server
        code = stop(process)
        if code != 0:
            raise DemoError(f"the server ended with exit code {code}; its log: {log}")
        console.print(f"the server (pid {process.pid}) drained and stopped, exit code 0")
    finally:
        stop(process)


def _await_server(process: "subprocess.Popen[str]", log: Path) -> Server:
    """Read the line that the server prints when it is ready, then ask its health service."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
    line = process.stdout.readline() if ready else ""
    if not line.startswith("serving gRPC on "):
        raise DemoError(f"the server did not start within {START_TIMEOUT_S:g} s: got {line!r}; its log: {log}")
    grpc_part, metrics_part = line.strip().split(", ")
    server = Server(
        process=process, url=grpc_part.rsplit(" ", maxsplit=1)[1], metrics_url=metrics_part.rsplit(" ", maxsplit=1)[1]
    )
    with Client(server.url) as client:
        client.wait_until_serving(timeout_s=START_TIMEOUT_S)
    console.print(line.strip())
    return server


def stop(process: "subprocess.Popen[str]") -> int:
    """Ask a child to stop by SIGTERM, end it if it does not, and give its exit code."""
    if process.poll() is None:
        process.terminate()
    try:
        code = process.wait(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    if process.stdout is not None:
        process.stdout.close()
    return code


def scrape(url: str) -> list[Sample]:
    """Read the server's metrics."""
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - our own server
        families = text_string_to_metric_families(response.read().decode())
        return [sample for family in families for sample in family.samples]


def totals(samples: Iterable[Sample], name: str, *labels: str, **only: str) -> dict[str, float]:
    """Sum a metric's samples.

    Args:
        samples: of a scrape.
        name: of the samples, such as ``cascade_flops_total``.
        *labels: sums are kept apart by these.
        **only: labels that a sample must have to count.

    Returns:
        values of the labels, with spaces between → sum; sums of 0 are left out.
    """
    sums: dict[str, float] = {}
    for sample in samples:
        if sample.name == name and only.items() <= sample.labels.items() and sample.value:
            key = " ".join(sample.labels[label] for label in labels)
            sums[key] = sums.get(key, 0.0) + sample.value
    return sums

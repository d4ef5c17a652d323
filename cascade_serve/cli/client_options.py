"""Options that the client commands share, and what is made of them: connections, and a query on the caller's terms."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cascade_serve.core.cost import parse_flops
from cascade_serve.core.request import Mode
from cascade_serve.errors import CascadeError, ConfigError
from cascade_serve.load.traffic import Query
from cascade_serve.rpc.client import Client, ClientTls
from cascade_serve.rpc.remote import RemoteError

DEFAULT_URL = "127.0.0.1:8001"
MAX_DEFAULT_CONNECTIONS = 16

UrlOption = Annotated[str, typer.Option("--url", metavar="HOST:PORT", help="The server.")]
ModelOption = Annotated[str, typer.Option("--model", metavar="CASCADE", help="The cascade to ask.", show_default=False)]
VersionOption = Annotated[
    str, typer.Option("--model-version", help="Version of the cascade.", show_default="the one being served")
]
ThresholdOption = Annotated[
    str | None,
    typer.Option(
        "--confidence-threshold",
        metavar="T",
        help="Exit as soon as this sure: 0 to 1 for all stages, or one a stage but the last, such as 0.9,0.8.",
        show_default="the policy's",
    ),
]
MaxFlopsOption = Annotated[
    str | None,
    typer.Option("--max-flops", metavar="F", help="Worst-case FLOPs per image, such as 250M.", show_default="no cap"),
]
PolicyOption = Annotated[
    str | None,
    typer.Option("--policy", metavar="P", help="A policy of the cascade's plan.", show_default="default"),
]
ModeOption = Annotated[
    Mode | None,
    typer.Option("--mode", help="Exit early, or ask all members that the cap allows.", show_default="cascade"),
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", metavar="S", min=0.001, max=86_400, help="Seconds for a request.")
]
ImagesPerRequestOption = Annotated[
    int, typer.Option("--images-per-request", metavar="N", min=1, help="Images in each request.")
]
ConnectionsOption = Annotated[
    int | None,
    typer.Option(
        "--connections",
        metavar="N",
        min=1,
        help="Connections that the callers share.",
        show_default=f"one a caller, at most {MAX_DEFAULT_CONNECTIONS}",
    ),
]
EncodedOption = Annotated[
    bool,
    typer.Option("--encoded", help="Send the files as they are, for the server to decode; else pixels are sent."),
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON; - is standard output.")
]
AuthorityOption = Annotated[
    Path | None,
    typer.Option("--tls-authority", metavar="FILE", help="PEM; connects by TLS and trusts what this has signed."),
]
CertificateOption = Annotated[
    Path | None, typer.Option("--tls-certificate", metavar="FILE", help="PEM; the client's own certificate.")
]
KeyOption = Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="PEM; its private key.")]


def read_query(
    *,
    model: str,
    version: str,
    confidence_threshold: str | None,
    max_flops: str | None,
    policy: str | None,
    mode: Mode | None,
) -> Query:
    """Make a query of the options' texts.

    Raises:
        typer.BadParameter: one is not what it must be.
    """
    return Query(
        model=model,
        version=version,
        confidence_threshold=None if confidence_threshold is None else _read_thresholds(confidence_threshold),
        max_flops=None if max_flops is None else _read_flops(max_flops),
        policy=policy,
        mode=mode,
    )


def _read_thresholds(text: str) -> float | tuple[float, ...]:
    thresholds = tuple(_read_share(part) for part in text.split(","))
    return thresholds if len(thresholds) > 1 else thresholds[0]


def _read_share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = float("nan")
    if not 0 <= share <= 1:
        raise typer.BadParameter(f"got {text!r}; must be a number between 0 and 1", param_hint="--confidence-threshold")
    return share


def _read_flops(text: str) -> int:
    try:
        return parse_flops(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--max-flops") from error


def read_tls(authority: Path | None, certificate: Path | None, key: Path | None) -> ClientTls | None:
    """Make the connection's certificates of the options.

    Raises:
        ConfigError: only some of those that belong together were given.
    """
    if authority is None and certificate is None and key is None:
        return None
    if authority is None or (certificate is None) != (key is None):
        raise ConfigError(
            "tls: --tls-authority must be given, and --tls-certificate and --tls-key together or not at all"
        )
    return ClientTls(authority=authority, certificate=certificate, key=key)


@contextmanager
def connect(url: str, *, timeout_s: float, tls: ClientTls | None, connections: int = 1) -> Iterator[list[Client]]:
    """Open connections to a server; errors of calls inside name it.

    Raises:
        ConfigError: the url is none, or a certificate can't be read.
        CascadeError: a call inside failed.
    """
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(url, timeout_s=timeout_s, tls=tls)) for _ in range(connections)]
        try:
            yield clients
        except RemoteError as error:
            raise CascadeError(f"{url}: {error}") from error


def spread(clients: list[Client], concurrency: int) -> list[Client]:
    """Give each caller a connection, in turn."""
    return [clients[caller % len(clients)] for caller in range(concurrency)]


def num_connections(asked: int | None, concurrency: int) -> int:
    """Give the number of connections; more than callers would stay unused."""
    return min(concurrency, MAX_DEFAULT_CONNECTIONS if asked is None else asked)

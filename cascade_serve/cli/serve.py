"""``cascade-serve serve``: options and signals around one serving process."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from cascade_serve.engine.onnx import Device
from cascade_serve.engine.opening import OpeningConfig
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.errors import ConfigError
from cascade_serve.rpc.server import ServerConfig, TlsConfig
from cascade_serve.serving import ServeConfig, ServingProcess

_log = logging.getLogger(__name__)

_SERVER = ServerConfig()
_ENGINE = EngineConfig()
_DEFAULTS = ServeConfig(repository=Path())


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve)


def serve(  # noqa: PLR0917 - the options say it
    repository: Annotated[Path, typer.Argument(help="Folder of <cascade>/<version>/ bundles.", show_default=False)],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = _SERVER.host,
    port: Annotated[int, typer.Option(help="gRPC port; 0 takes a free one.")] = _SERVER.port,
    metrics_port: Annotated[
        int, typer.Option(help="HTTP port of /metrics; 0 takes a free one.")
    ] = _DEFAULTS.metrics_port,
    engine: Annotated[str, typer.Option(help="Inference engine: onnx.")] = "onnx",
    device: Annotated[Device, typer.Option(help="Where members run.")] = Device.CPU,
    device_id: Annotated[int, typer.Option(help="Which CUDA device.", min=0)] = 0,
    workers: Annotated[
        int, typer.Option(help="Batches that run at the same time; 0 is one a core.", show_default="one a core")
    ] = 0,
    threads_per_worker: Annotated[int, typer.Option(help="Threads inside one run.")] = _ENGINE.threads_per_worker,
    max_batch_size: Annotated[int, typer.Option(help="Rows of one run of a member.")] = _ENGINE.max_batch_size,
    max_queue_delay_s: Annotated[
        float, typer.Option(help="Seconds a row may wait for its batch to fill.")
    ] = _ENGINE.max_queue_delay_s,
    max_queue_rows: Annotated[
        int, typer.Option(help="Rows in a cascade's engine, waiting or running; more get RESOURCE_EXHAUSTED.")
    ] = _ENGINE.max_queue_rows,
    max_in_flight_requests: Annotated[
        int, typer.Option(help="Requests at the same time; more get RESOURCE_EXHAUSTED.")
    ] = _SERVER.max_in_flight_requests,
    max_message_bytes: Annotated[int, typer.Option(help="Bytes of one request.")] = _SERVER.max_message_bytes,
    watch_interval_s: Annotated[
        float, typer.Option(help="Seconds between looks for new versions; 0 looks once.", min=0)
    ] = _DEFAULTS.watch_interval_s,
    drain_timeout_s: Annotated[
        float, typer.Option(help="Seconds that requests get to end at a stop or swap.", min=0)
    ] = _DEFAULTS.drain_timeout_s,
    stop_notice_s: Annotated[
        float, typer.Option(help="Seconds of NOT_SERVING before requests are refused at a stop.", min=0)
    ] = _DEFAULTS.stop_notice_s,
    allow_uncertified: Annotated[
        bool, typer.Option(help="Serve plans that were calibrated on another engine or precision, flagged.")
    ] = False,
    allow_repository_control: Annotated[
        bool, typer.Option(help="Let callers load and unload cascades (RepositoryModelLoad, ...Unload).")
    ] = False,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM chain; with --tls-key serves TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM private key.")] = None,
    tls_client_authority: Annotated[Path | None, typer.Option(help="PEM; demands clients' certificates.")] = None,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
) -> None:
    """Serve every cascade in REPOSITORY over gRPC until SIGTERM or Ctrl-C; SIGHUP looks for new versions at once."""
    if engine != "onnx":
        raise typer.BadParameter(f"got {engine!r}; must be onnx", param_hint="--engine")
    config = _checked(
        lambda: ServeConfig(
            repository=repository,
            server=ServerConfig(
                host=host,
                port=port,
                max_in_flight_requests=max_in_flight_requests,
                max_message_bytes=max_message_bytes,
                allow_repository_control=allow_repository_control,
                tls=_tls(tls_certificate, tls_key, tls_client_authority),
            ),
            opening=OpeningConfig(
                engine=EngineConfig(
                    workers=workers or _num_cores(),
                    threads_per_worker=threads_per_worker,
                    max_batch_size=max_batch_size,
                    max_queue_delay_s=max_queue_delay_s,
                    max_queue_rows=max_queue_rows,
                ),
                device=device,
                device_id=device_id,
                allow_uncertified=allow_uncertified,
            ),
            metrics_port=metrics_port,
            watch_interval_s=watch_interval_s,
            drain_timeout_s=drain_timeout_s,
            stop_notice_s=stop_notice_s,
        )
    )
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    run(config)


def run(config: ServeConfig) -> None:
    """Serve until a signal says to stop."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    process = ServingProcess(config)
    try:
        process.start()
        signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=process.repository.refresh).start())
        # Printed, not logged: scripts read the ports from here.
        print(  # noqa: T201
            f"serving gRPC on {config.server.host}:{process.server.port},"
            f" metrics on http://{config.server.host}:{process.metrics_server.port}/metrics",
            flush=True,
        )
        stop.wait()
        _log.info("stopping: %d requests in flight", process.server.in_flight)
    finally:
        process.stop()


def _checked(build: Callable[[], ServeConfig]) -> ServeConfig:
    try:
        return build()
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _tls(certificate: Path | None, key: Path | None, authority: Path | None) -> TlsConfig | None:
    if certificate is None and key is None and authority is None:
        return None
    if certificate is None or key is None:
        raise ConfigError("tls: --tls-certificate and --tls-key must be given together")
    return TlsConfig(certificate=certificate, key=key, client_authority=authority)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

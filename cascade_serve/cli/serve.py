"""``cascade-serve serve``: options, and signals around one serving process; several have a parent of their own."""

import logging
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import FrameType
from typing import Annotated

import typer

from cascade_serve.engine.onnx import Device
from cascade_serve.engine.opening import Backend, OpeningConfig
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.errors import ConfigError
from cascade_serve.events import next_event
from cascade_serve.processes import supervisor
from cascade_serve.rpc.server import ServerConfig, TlsConfig
from cascade_serve.serving import ServeConfig, ServingProcess

_log = logging.getLogger(__name__)

_SERVER = ServerConfig()
_ENGINE = EngineConfig()
_DEFAULTS = ServeConfig(repository=Path())
_ENGINE_PANEL = "Engine"
_LIMITS_PANEL = "Limits"
_CHANGE_PANEL = "New versions, and stopping"
_TLS_PANEL = "TLS"


class _LogLevel(StrEnum):
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve)


def serve(  # noqa: PLR0917 - typer reads the options from the parameters
    repository: Annotated[Path, typer.Argument(metavar="REPOSITORY", help="Folder of <cascade>/<version>/ bundles.")],
    host: Annotated[str, typer.Option(metavar="HOST", help="Address to listen on; 0.0.0.0 for all.")] = _SERVER.host,
    port: Annotated[int, typer.Option(metavar="N", help="gRPC port; 0 takes a free one.")] = _SERVER.port,
    metrics_port: Annotated[
        int, typer.Option(metavar="N", help="HTTP port of /metrics; 0 takes a free one.")
    ] = _DEFAULTS.metrics_port,
    reuse_port: Annotated[
        bool,
        typer.Option("--reuse-port", help="Share the gRPC port with other servers; connections are spread over them."),
    ] = _SERVER.reuse_port,
    processes: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Front-end processes that share the port, each with engines and limits of its own; clients should hold"
            " several connections, as each stays with one process.",
        ),
    ] = _DEFAULTS.processes,
    log_level: Annotated[
        _LogLevel,
        typer.Option(
            metavar="LEVEL", case_sensitive=False, help="Least that is logged: debug, info, warning or error."
        ),
    ] = _LogLevel.INFO,
    engine: Annotated[
        Backend, typer.Option(help="What runs the members.", rich_help_panel=_ENGINE_PANEL)
    ] = Backend.ONNX,
    device: Annotated[Device, typer.Option(help="Where members run.", rich_help_panel=_ENGINE_PANEL)] = Device.CPU,
    device_ids: Annotated[
        list[int],
        typer.Option(
            "--device-id",
            metavar="N",
            help="Which CUDA device. May be given again with torch, which then runs an engine on each.",
            min=0,
            rich_help_panel=_ENGINE_PANEL,
        ),
    ] = [0],  # noqa: B006 - typer's way to give a list's default; never changed
    engine_cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep the engines that tensorrt builds here for the next start.",
            show_default="beside each version",
            rich_help_panel=_ENGINE_PANEL,
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Batches that run at the same time in a process; 0 is one a core, shared out over the processes, or"
            " two a device with tensorrt, or with torch on CUDA.",
            show_default="one a core",
            rich_help_panel=_ENGINE_PANEL,
        ),
    ] = 0,
    threads_per_worker: Annotated[
        int, typer.Option(metavar="N", help="Threads inside one run.", rich_help_panel=_ENGINE_PANEL)
    ] = _ENGINE.threads_per_worker,
    max_batch_size: Annotated[
        int,
        typer.Option(
            metavar="ROWS",
            help="Most rows of one run of a member; fewer where its profile in the plan says that more don't pay.",
            rich_help_panel=_ENGINE_PANEL,
        ),
    ] = _ENGINE.max_batch_size,
    max_queue_delay_s: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="A row may wait so long for a fuller batch, where one pays.",
            rich_help_panel=_ENGINE_PANEL,
        ),
    ] = _ENGINE.max_queue_delay_s,
    worker_niceness: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="By how much threads that run members stand back before those that speak with clients, 0 to 19.",
            rich_help_panel=_ENGINE_PANEL,
        ),
    ] = _ENGINE.worker_niceness,
    allow_uncertified: Annotated[
        bool,
        typer.Option(
            "--allow-uncertified",
            help="Serve plans that were calibrated on another engine or precision; their answers say so.",
            rich_help_panel=_ENGINE_PANEL,
        ),
    ] = False,
    max_queue_rows: Annotated[
        int,
        typer.Option(
            metavar="ROWS",
            help="Rows in a cascade, waiting or running; more get RESOURCE_EXHAUSTED.",
            rich_help_panel=_LIMITS_PANEL,
        ),
    ] = _ENGINE.max_queue_rows,
    max_in_flight_requests: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Requests at the same time; more get RESOURCE_EXHAUSTED.",
            rich_help_panel=_LIMITS_PANEL,
        ),
    ] = _SERVER.max_in_flight_requests,
    max_message_bytes: Annotated[
        int, typer.Option(metavar="BYTES", help="Size of one request.", rich_help_panel=_LIMITS_PANEL)
    ] = _SERVER.max_message_bytes,
    max_image_pixels: Annotated[
        int,
        typer.Option(metavar="PIXELS", help="Width times height of an encoded image.", rich_help_panel=_LIMITS_PANEL),
    ] = _SERVER.decode_limits.max_pixels,
    max_request_pixels: Annotated[
        int,
        typer.Option(metavar="PIXELS", help="All encoded images of one request.", rich_help_panel=_LIMITS_PANEL),
    ] = _SERVER.max_request_pixels,
    max_connection_age_s: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Then clients connect anew, so that load balancers can spread them over new replicas.",
            show_default="never",
            rich_help_panel=_LIMITS_PANEL,
        ),
    ] = _SERVER.max_connection_age_s,
    watch_interval_s: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Between looks for new versions; 0 looks once.",
            min=0,
            rich_help_panel=_CHANGE_PANEL,
        ),
    ] = _DEFAULTS.watch_interval_s,
    drain_timeout_s: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Requests get so long to end at a stop or swap.",
            min=0,
            rich_help_panel=_CHANGE_PANEL,
        ),
    ] = _DEFAULTS.drain_timeout_s,
    stop_notice_s: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="From NOT_SERVING to refusing requests at a stop, for load balancers.",
            min=0,
            rich_help_panel=_CHANGE_PANEL,
        ),
    ] = _DEFAULTS.stop_notice_s,
    allow_repository_control: Annotated[
        bool,
        typer.Option(
            "--allow-repository-control", help="Let callers load and unload cascades.", rich_help_panel=_CHANGE_PANEL
        ),
    ] = False,
    allow_shared_memory: Annotated[
        bool,
        typer.Option(
            "--allow-shared-memory",
            help="Let callers on this machine pass tensors by shared memory, in any object that this process may open.",
        ),
    ] = _SERVER.allow_shared_memory,
    tls_certificate: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Server's chain.", rich_help_panel=_TLS_PANEL)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Its private key.", rich_help_panel=_TLS_PANEL)
    ] = None,
    tls_client_authority: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Demand clients' certificates.", rich_help_panel=_TLS_PANEL)
    ] = None,
) -> None:
    """Serve every cascade in REPOSITORY over gRPC until SIGTERM or Ctrl-C; SIGHUP looks for new versions at once."""
    config = _checked(
        lambda: ServeConfig(
            repository=repository,
            server=ServerConfig(
                host=host,
                port=port,
                max_in_flight_requests=max_in_flight_requests,
                max_message_bytes=max_message_bytes,
                decode_limits=replace(_SERVER.decode_limits, max_pixels=max_image_pixels),
                max_request_pixels=max_request_pixels,
                allow_repository_control=allow_repository_control,
                allow_shared_memory=allow_shared_memory,
                max_connection_age_s=max_connection_age_s,
                reuse_port=reuse_port,
                tls=_tls(tls_certificate, tls_key, tls_client_authority),
            ),
            opening=OpeningConfig(
                engine=EngineConfig(
                    workers=workers or _default_workers(engine, device, processes),
                    threads_per_worker=threads_per_worker,
                    max_batch_size=max_batch_size,
                    max_queue_delay_s=max_queue_delay_s,
                    max_queue_rows=max_queue_rows,
                    worker_niceness=worker_niceness,
                ),
                backend=engine,
                device=device,
                device_ids=tuple(device_ids),
                engine_cache=engine_cache,
                allow_uncertified=allow_uncertified,
            ),
            metrics_port=metrics_port,
            watch_interval_s=watch_interval_s,
            drain_timeout_s=drain_timeout_s,
            stop_notice_s=stop_notice_s,
            processes=processes,
        )
    )
    logging.basicConfig(level=log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if processes == 1:
        run(config)
    else:
        supervisor.run(config, log_level=log_level)


def run(config: ServeConfig) -> None:
    """Serve until a signal says to stop. Further ones change nothing, but that Ctrl-C twice ends at once."""
    # A handler may run within any line of this thread: of all the queues, events and locks only this one can take that.
    signals: SimpleQueue[int] = SimpleQueue()
    is_loading = True

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal is_loading
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
        signals.put(number)
        # Large models load for minutes, which nothing else could end.
        if is_loading and number != signal.SIGHUP:
            is_loading = False
            raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    process = ServingProcess(config)
    try:
        process.start()
        is_loading = False
        # Printed, not logged: scripts read the ports from here.
        print(  # noqa: T201
            f"serving gRPC on {config.server.host}:{process.server.port},"
            f" metrics on http://{config.server.host}:{process.metrics_server.port}/metrics",
            flush=True,
        )
        while next_event(signals) == signal.SIGHUP:
            Thread(target=process.repository.refresh, name="refresh", daemon=True).start()
        _log.info("stopping: %d requests in flight", process.server.in_flight)
    except KeyboardInterrupt:
        _log.info("stopping before every cascade was loaded")
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


def _default_workers(engine: Backend, device: Device, processes: int) -> int:
    if engine is Backend.TENSORRT or (engine is Backend.TORCH and device is Device.CUDA):
        # While one settles its batch, the other's runs.
        return 2
    return max(1, _num_cores() // max(1, processes))


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""The gRPC server: listens, serves a repository with health and reflection beside it, and stops in order."""

import ipaddress
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
import grpc.aio
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from cascade_serve.errors import ConfigError
from cascade_serve.metrics import Metrics
from cascade_serve.rpc.desk import Desk
from cascade_serve.rpc.health import HealthServicer
from cascade_serve.rpc.loop import Bell, service_loop
from cascade_serve.rpc.methods import MethodsByName, hush_broken_calls
from cascade_serve.rpc.ports import RegionControl, Repository, Siblings
from cascade_serve.rpc.servicer import InferenceServicer
from cascade_serve.rpc.shared_memory import RegionTable
from cascade_serve.rpc.stubs import grpc_service_pb2, grpc_service_pb2_grpc
from cascade_serve.rpc.stubs.pool import POOL
from cascade_serve.rpc.tally import Tally, tally_key, write_tally
from model_zoo.preprocess import DEFAULT_LIMITS, DecodeLimits

# Calls beside those in flight: such as watch, ask what is served, or have not sent their message yet.
_OTHER_CALLS = 256
# Threads for what may take long: loading, descriptions, statistics.
_CONTROL_THREADS = 16
# After the drain only streams are left that no client will end.
_LAST_CALLS_S = 1.0


@dataclass(frozen=True, kw_only=True)
class TlsConfig:
    """Certificates, PEM files.

    Attributes:
        certificate: the server's, with the chain up to its authority.
        key: its private key.
        client_authority: what signs clients' certificates; None asks clients for none.
    """

    certificate: Path
    key: Path
    client_authority: Path | None = None


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """How the server listens, and what it takes.

    Attributes:
        host: address to listen on.
        port: 0 takes a free one; see :attr:`Server.port`.
        max_in_flight_requests: inference calls at the same time; more get RESOURCE_EXHAUSTED at once.
        max_message_bytes: of a request; longer ones get RESOURCE_EXHAUSTED.
        decode_limits: of each encoded image.
        max_request_pixels: of all encoded images of a request together, which bounds the seconds of its decoding.
        allow_repository_control: callers may load and unload cascades.
        allow_shared_memory: callers may register shared memory objects, any that this process may open, and have their
            tensors read and written there.
        max_connection_age_s: after so many seconds a client is asked to connect anew, so that a load balancer can
            spread connections over new replicas; None never asks.
        reuse_port: several processes may listen on the same port, and the kernel spreads connections over them.
        tls: certificates; None listens without encryption.
    """

    host: str = "127.0.0.1"
    port: int = 8001
    max_in_flight_requests: int = 128
    max_message_bytes: int = 64 << 20
    decode_limits: DecodeLimits = field(default=DEFAULT_LIMITS)
    max_request_pixels: int = 10 * DEFAULT_LIMITS.max_pixels
    allow_repository_control: bool = False
    allow_shared_memory: bool = False
    max_connection_age_s: float | None = None
    reuse_port: bool = False
    tls: TlsConfig | None = None

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("port", self.port, 0, 65535),
            ("max_in_flight_requests", self.max_in_flight_requests, 1, 10_000),
            ("max_message_bytes", self.max_message_bytes, 1024, 2**31 - 1),
            ("max_request_pixels", self.max_request_pixels, self.decode_limits.max_pixels, 2**63 - 1),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name}: got {value}; must be between {low} and {high}")
        if self.max_connection_age_s is not None and not 1 <= self.max_connection_age_s <= 86400 * 365:
            raise ValueError(f"max_connection_age_s: got {self.max_connection_age_s}; must be 1 second to a year")

    @property
    def address(self) -> str:
        """Host and port as gRPC writes them."""
        return f"[{self.host}]:{self.port}" if _is_ipv6(self.host) else f"{self.host}:{self.port}"


class Server:
    """A gRPC server over a repository. As a context manager it starts, and stops without a grace.

    Args:
        repository: the cascades; whoever owns it loads and closes it.
        metrics: counts requests.
        config: how it listens.
        region_control: what callers register shared memory with, where several processes must know of it; None is
            :attr:`regions`.
        siblings: the processes on the same port that statistics speak for; None is alone.

    Raises:
        ConfigError: the address can't be listened on, a certificate can't be read, or the system has no shared memory.
    """

    def __init__(
        self,
        repository: Repository,
        metrics: Metrics,
        config: ServerConfig,
        *,
        region_control: RegionControl | None = None,
        siblings: Siblings | None = None,
    ) -> None:
        self._repository = repository
        self.regions = RegionTable(max_input_bytes=config.max_message_bytes) if config.allow_shared_memory else None
        """The shared memory that this process knows; None where the configuration allows none."""
        self._region_control = region_control
        self._siblings = siblings
        self._desk = Desk(metrics, config.max_in_flight_requests)
        self._loop = service_loop()
        self._health = HealthServicer(self._statuses, self._loop.loop)
        self._stop_once = threading.Lock()
        # Threads are made as calls need them. The executors are grpc's and the servicer's to fill, and ours to end.
        self._control_threads = ThreadPoolExecutor(_CONTROL_THREADS, "rpc-control")
        self._decoding_threads = ThreadPoolExecutor(os.cpu_count() or 1, "rpc-decoding")
        self.port = self._loop.run(self._open(config))
        """The port being listened on."""

    async def _open(self, config: ServerConfig) -> int:
        """Make gRPC's server, which belongs to the loop it is made on, and listen."""
        hush_broken_calls()
        self._grpc = grpc.aio.server(
            self._control_threads,
            options=_options(config),
            maximum_concurrent_rpcs=config.max_in_flight_requests + _OTHER_CALLS,
        )
        self._add_services(config)
        return _listen(self._grpc, config)

    def _add_services(self, config: ServerConfig) -> None:
        servicer = InferenceServicer(
            self._repository,
            self._desk,
            Bell(self._loop.loop),
            self._decoding_threads,
            limits=config.decode_limits,
            max_request_pixels=config.max_request_pixels,
            allow_repository_control=config.allow_repository_control,
            on_change=self._health.refresh,
            regions=self.regions,
            region_control=self._region_control,
            siblings=self._siblings,
        )
        services = MethodsByName(self._grpc)
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, services)  # type: ignore[arg-type]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, services)
        pool, names = _described()
        describing = reflection.aio.ReflectionServicer(names, pool=pool)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(describing, services)

    def _statuses(self) -> dict[str, bool]:
        entries = self._repository.index()
        ready = {entry.name for entry in entries if entry.state == "READY"}
        return {"": self._repository.is_ready, **{entry.name: entry.name in ready for entry in entries}}

    @property
    def in_flight(self) -> int:
        """Inference calls that run."""
        return self._desk.in_flight

    def tallies(self) -> dict[str, Tally]:
        """Give this process's statistics of everything that answers, by :func:`~cascade_serve.rpc.tally.tally_key`."""
        return {tally_key(one): write_tally(one) for one in self._desk.traffic.all_statistics(self._repository)}

    def start(self) -> None:
        """Begin to take calls."""
        self._loop.run(self._grpc.start())

    def refresh_health(self) -> None:
        """Tell those who watch the health service what has changed; call it when the repository changed."""
        self._health.refresh()

    def stop(self, *, grace_s: float = 0.0, notice_s: float = 0.0) -> bool:
        """Stop in order: report NOT_SERVING, refuse new calls, let those in flight finish, close.

        Args:
            grace_s: how long calls in flight may take; then they are cancelled.
            notice_s: how long calls are still taken after NOT_SERVING, for load balancers to notice.

        Returns:
            whether every inference call ended by itself. Further calls of this method do nothing and return True.
        """
        if not self._stop_once.acquire(blocking=False):
            return True
        self._loop.run(self._health.drain())
        if notice_s:
            time.sleep(notice_s)
        is_drained = self._desk.drain(grace_s)
        # Answers may still be on their way out when the last call has left.
        self._loop.run(self._close(_LAST_CALLS_S if is_drained else None))
        for threads in (self._control_threads, self._decoding_threads):
            threads.shutdown()
        return is_drained

    async def _close(self, grace_s: float | None) -> None:
        # gRPC stops, and gives the port back, only where it has begun; a second start is none.
        await self._grpc.start()
        await self._grpc.stop(grace_s)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the server has stopped; tell whether it has."""
        return not self._loop.run(self._grpc.wait_for_termination(timeout_s))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def _options(config: ServerConfig) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", int(config.reuse_port)),
        # A connection whose client vanished without a word is found, and clients may look for us likewise.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]
    if config.max_connection_age_s is not None:
        options.append(("grpc.max_connection_age_ms", round(config.max_connection_age_s * 1e3)))
    return options


def _listen(server: grpc.aio.Server, config: ServerConfig) -> int:
    try:
        if config.tls is None:
            return server.add_insecure_port(config.address)
        return server.add_secure_port(config.address, _credentials(config.tls))
    except RuntimeError as error:
        hint = "" if config.tls is None else " Or is a certificate no PEM, or the key another one's?"
        raise ConfigError(f"address {config.address}: can't listen on it; is it in use?{hint} ({error})") from error


def _credentials(tls: TlsConfig) -> grpc.ServerCredentials:
    try:
        pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
        authority = None if tls.client_authority is None else tls.client_authority.read_bytes()
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from error
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def _described() -> tuple[DescriptorPool, list[str]]:
    """Give a pool that reflection can describe every service from, and the services' names."""
    files = (grpc_service_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
    for file in files[1:]:
        # The same file may be added again.
        POOL.AddSerializedFile(file.serialized_pb)  # type: ignore[no-untyped-call]
    return POOL, [service.full_name for file in files for service in file.services_by_name.values()]

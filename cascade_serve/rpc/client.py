"""The typed client: numpy arrays in, a dataclass out, one connection of its own."""
# Shapes: B rows, K classes, HWC image.

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cascade_serve.core.request import Mode, OnDeadline
from cascade_serve.errors import ConfigError
from cascade_serve.repository import IndexEntry, State
from cascade_serve.rpc.info import ModelInfo, Statistics, read_info
from cascade_serve.rpc.query import Images, Outputs, Prediction, decode_prediction, encode_query
from cascade_serve.rpc.remote import RemoteError, RemoteNotFoundError, RemoteUnavailableError, remote_error
from cascade_serve.rpc.shared_memory import RegionSpec
from cascade_serve.rpc.shared_region import SharedRegion
from cascade_serve.rpc.stubs import grpc_service_pb2 as pb2
from cascade_serve.rpc.stubs.grpc_service_pb2_grpc import GRPCInferenceServiceStub

_INFER = "/inference.GRPCInferenceService/ModelInfer"
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, kw_only=True)
class ClientTls:
    """Certificates, PEM files.

    Attributes:
        authority: what signs the server's certificate; None trusts what gRPC trusts by itself.
        certificate: the client's own, for servers that ask for one.
        key: its private key.
    """

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class Client:
    """Talks to one server. Thread-safe; close it, or use it as a context manager.

    Args:
        url: ``HOST:PORT``.
        timeout_s: seconds that a call may take where it does not say otherwise; None is for ever.
        tls: certificates; None connects without encryption.
        max_message_bytes: of an answer.

    Raises:
        ConfigError: the url is none, or a certificate can't be read.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float | None = 60.0,
        tls: ClientTls | None = None,
        max_message_bytes: int = 2**31 - 1,
    ) -> None:
        if "://" in url or ":" not in url:
            raise ConfigError(f"url: got {url!r}; must be HOST:PORT, such as 127.0.0.1:8001")
        # Otherwise all clients of a process share a connection, and a load test measures that.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", max_message_bytes)]
        options.append(("grpc.max_send_message_length", -1))
        self._timeout_s = timeout_s
        self._channel = (
            grpc.insecure_channel(url, options) if tls is None else grpc.secure_channel(url, _credentials(tls), options)
        )
        self._stub = GRPCInferenceServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._raw_infer: Callable[..., bytes] = self._channel.unary_unary(_INFER)

    def infer(
        self,
        images: Images,
        *,
        model: str,
        version: str = "",
        confidence_threshold: float | Sequence[float] | None = None,
        max_flops: int | str | None = None,
        policy: str | None = None,
        mode: Mode | str | None = None,
        on_deadline: OnDeadline | str | None = None,
        priority: int | None = None,
        timeout_s: float | None = None,
        outputs: Outputs | None = None,
    ) -> Prediction:
        """Classify images.

        Args:
            images: uint8 [B, H, W, C] or [H, W, C] at the cascade's size, images of a :meth:`shared_region`, or JPEG
                or PNG files of any size.
            model: the cascade.
            version: of it; empty is the one being served.
            confidence_threshold: replaces the policy's: one number in [0, 1] for all stages, or one a stage but the
                last.
            max_flops: worst case per image; a number, or a text such as ``250M``.
            policy: of the cascade's plan; None is ``default``.
            mode: ``cascade`` or ``ensemble``.
            on_deadline: ``fail`` (the default), or ``answer`` with what the stages done say.
            priority: 1 goes first; 0, the default, last.
            timeout_s: seconds; None is the client's own. With ``answer`` the images get nine tenths of it, and the
                answer's way back the rest.
            outputs: those wanted, with places in a :meth:`shared_region` where they shall go there; None is all.

        Raises:
            InvalidRequestError: the images are neither a uint8 array nor files.
            RemoteError: the server refused or failed, or can't be reached.
        """
        message = encode_query(
            images,
            model=model,
            version=version,
            outputs=outputs,
            confidence_threshold=confidence_threshold,
            max_flops=max_flops,
            policy=policy,
            mode=mode,
            on_deadline=on_deadline,
            priority=priority,
            timeout=self._timeout_us(timeout_s) if on_deadline == OnDeadline.ANSWER else None,
        )
        return decode_prediction(self._call(self._stub.ModelInfer, message, timeout_s), outputs)

    def raw_infer(self, serialised: bytes, *, timeout_s: float | None = None) -> bytes:
        """Send a serialised ModelInferRequest and give the serialised answer, for load generators.

        Args:
            serialised: such as :meth:`encode` gives, to be sent many times.
            timeout_s: seconds; None is the client's own.

        Raises:
            RemoteError: the server refused or failed, or can't be reached.
        """
        return self._call(self._raw_infer, serialised, timeout_s)

    @staticmethod
    def encode(images: Images, *, model: str, **query: Any) -> bytes:
        """Serialise a request for :meth:`raw_infer`: arguments and errors are :func:`.encode_query`'s."""
        return encode_query(images, model=model, **query).SerializeToString()

    @staticmethod
    def decode(serialised: bytes) -> Prediction:
        """Read an answer of :meth:`raw_infer`.

        Raises:
            RemoteError: it does not follow the protocol.
        """
        try:
            message = pb2.ModelInferResponse.FromString(serialised)
        except DecodeError as error:
            raise RemoteError("UNKNOWN", f"the answer is no message of the protocol: {error}") from error
        return decode_prediction(message)

    def info(self, model: str, version: str = "") -> ModelInfo:
        """Ask what a cascade takes, gives and costs.

        Raises:
            RemoteError: there is none of that name, or the server can't be reached.
        """
        metadata = self._call(self._stub.ModelMetadata, pb2.ModelMetadataRequest(name=model, version=version))
        config = self._call(self._stub.ModelConfig, pb2.ModelConfigRequest(name=model, version=version))
        return read_info(metadata, config.config)

    def is_live(self) -> bool:
        """Tell whether the server is there."""
        try:
            return self._call(self._stub.ServerLive, pb2.ServerLiveRequest()).live
        except RemoteUnavailableError:
            return False

    def is_ready(self, model: str = "") -> bool:
        """Tell whether a cascade answers, or without a name whether all do; False where the server is not there."""
        try:
            if model:
                return self._call(self._stub.ModelReady, pb2.ModelReadyRequest(name=model)).ready
            return self._call(self._stub.ServerReady, pb2.ServerReadyRequest()).ready
        except RemoteUnavailableError:
            return False

    def health(self, model: str = "") -> str:
        """Ask the standard health service about a cascade, or about the server.

        Returns:
            ``SERVING``, ``NOT_SERVING``, or ``SERVICE_UNKNOWN`` for a cascade that is not there.

        Raises:
            RemoteError: the server can't be reached.
        """
        try:
            response = self._call(self._health.Check, health_pb2.HealthCheckRequest(service=model))
        except RemoteNotFoundError:
            return "SERVICE_UNKNOWN"
        name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
        return name

    def wait_until_serving(self, model: str = "", *, timeout_s: float | None = None) -> None:
        """Wait until a cascade, or without a name the whole server, serves; the server may still have to start.

        Raises:
            RemoteLateError: it does not within the time.
            RemoteError: the server ended the wait.
        """
        request = health_pb2.HealthCheckRequest(service=model)
        try:
            watch = self._health.Watch(request, timeout=self._seconds(timeout_s), wait_for_ready=True)
            for response in watch:
                if response.status == health_pb2.HealthCheckResponse.SERVING:
                    watch.cancel()
                    return
        except grpc.RpcError as error:
            raise remote_error(error) from error
        raise RemoteUnavailableError("UNAVAILABLE", "the server is draining")

    def statistics(self, model: str = "", version: str = "") -> tuple[Statistics, ...]:
        """Ask for the counts of a cascade or a member; without a name, of everything that is served.

        Raises:
            RemoteError: there is none of that name, or the server can't be reached.
        """
        request = pb2.ModelStatisticsRequest(name=model, version=version)
        return tuple(map(_statistics, self._call(self._stub.ModelStatistics, request).model_stats))

    def index(self) -> tuple[IndexEntry, ...]:
        """List every version of every cascade, and whether it answers.

        Raises:
            RemoteError: the server can't be reached.
        """
        response = self._call(self._stub.RepositoryIndex, pb2.RepositoryIndexRequest())
        return tuple(
            IndexEntry(name=model.name, version=model.version, state=cast("State", model.state), reason=model.reason)
            for model in response.models
        )

    def load(self, model: str) -> None:
        """Have the server load a cascade's newest version.

        Raises:
            RemoteError: the server does not allow that, or can't.
        """
        self._call(self._stub.RepositoryModelLoad, pb2.RepositoryModelLoadRequest(model_name=model))

    def unload(self, model: str) -> None:
        """Have the server drain and unload a cascade.

        Raises:
            RemoteError: the server does not allow that, or can't.
        """
        self._call(self._stub.RepositoryModelUnload, pb2.RepositoryModelUnloadRequest(model_name=model))

    @contextmanager
    def shared_region(self, byte_size: int, *, mode: int = 0o600) -> Iterator[SharedRegion]:
        """Make shared memory that tensors can be passed by, for a server on this machine; it ends with the context.

        Args:
            byte_size: of the region.
            mode: the memory's permissions, as those of a file, where the server runs as another user.

        Raises:
            OSError: the system has no such memory, or not enough.
            RemoteError: the server does not allow shared memory, or can't open it.
        """
        with SharedRegion(byte_size, mode=mode) as region:
            self.register_region(region.spec)
            try:
                yield region
            finally:
                # A server that has gone has forgotten the region with everything else.
                with suppress(RemoteUnavailableError):
                    self.unregister_region(region.spec.name)

    def register_region(self, spec: RegionSpec) -> None:
        """Have the server know a region of shared memory that exists already.

        Raises:
            RemoteError: the server does not allow shared memory, can't open it, or knows another by that name.
        """
        request = pb2.SystemSharedMemoryRegisterRequest(
            name=spec.name, key=spec.key, offset=spec.offset, byte_size=spec.byte_size
        )
        self._call(self._stub.SystemSharedMemoryRegister, request)

    def unregister_region(self, name: str = "") -> None:
        """Have the server forget a region of shared memory; without a name all, of whichever clients.

        Raises:
            RemoteError: the server does not allow shared memory, or can't be reached.
        """
        self._call(self._stub.SystemSharedMemoryUnregister, pb2.SystemSharedMemoryUnregisterRequest(name=name))

    def regions(self) -> tuple[RegionSpec, ...]:
        """List the regions of shared memory that the server knows.

        Raises:
            RemoteError: the server does not allow shared memory, or can't be reached.
        """
        response = self._call(self._stub.SystemSharedMemoryStatus, pb2.SystemSharedMemoryStatusRequest())
        return tuple(
            RegionSpec(name=one.name, key=one.key, offset=one.offset, byte_size=one.byte_size)
            for one in response.regions.values()
        )

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: Callable[..., _Answer], request: object, timeout_s: float | None = None) -> _Answer:
        try:
            return method(request, timeout=self._seconds(timeout_s))
        except grpc.RpcError as error:
            raise remote_error(error) from error

    def _seconds(self, timeout_s: float | None) -> float | None:
        return self._timeout_s if timeout_s is None else timeout_s

    def _timeout_us(self, timeout_s: float | None) -> int | None:
        seconds = self._seconds(timeout_s)
        return None if seconds is None else max(1, round(seconds * 0.9e6))


def _statistics(message: pb2.ModelStatistics) -> Statistics:
    times = message.inference_stats
    return Statistics(
        name=message.name,
        version=message.version,
        rows=message.inference_count,
        requests=message.execution_count,
        failures=times.fail.count,
        queue_s=times.queue.ns / 1e9,
        compute_s=times.compute_infer.ns / 1e9,
    )


def _credentials(tls: ClientTls) -> grpc.ChannelCredentials:
    try:
        files = [None if path is None else path.read_bytes() for path in (tls.authority, tls.key, tls.certificate)]
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from error
    return grpc.ssl_channel_credentials(*files)

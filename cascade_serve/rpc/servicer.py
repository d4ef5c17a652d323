"""The service's methods: each decodes, asks, encodes; what surrounds a ModelInfer stands in ``desk``."""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any, cast

import grpc
import grpc.aio

from cascade_serve import __version__
from cascade_serve.core.request import Reply
from cascade_serve.engine.protocol import Ticket
from cascade_serve.errors import CascadeError, InvalidRequestError, NotAllowedError, NotFoundError
from cascade_serve.rpc import describe
from cascade_serve.rpc.codec import Query, decode_request, encode_reply, is_light
from cascade_serve.rpc.desk import Desk, Visit
from cascade_serve.rpc.directory import find, is_ready, refuse_member
from cascade_serve.rpc.loop import Bell
from cascade_serve.rpc.ports import RegionControl, Repository, Served, Siblings
from cascade_serve.rpc.shared_memory import RegionSpec, RegionTable
from cascade_serve.rpc.status import answering, answering_soon
from cascade_serve.rpc.stubs import grpc_service_pb2 as pb2
from cascade_serve.rpc.stubs.grpc_service_pb2_grpc import GRPCInferenceServiceServicer
from cascade_serve.rpc.tally import read_tally, tally_key
from model_zoo.preprocess import DecodeLimits

SERVER_NAME = "cascade_serve"
EXTENSIONS = ("model_configuration", "model_repository", "parameters", "schedule_policy", "statistics")
SHARED_MEMORY_EXTENSION = "system_shared_memory"

_Context = grpc.aio.ServicerContext[pb2.ModelInferRequest, pb2.ModelInferResponse]
# Of methods that never look at it.
_AnyContext = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer(GRPCInferenceServiceServicer):
    """Serves a repository.

    Coroutines run on the loop: inference, and probes, which must be answered while loads and descriptions hold all the
    threads that plain methods run on.

    Args:
        repository: the cascades.
        desk: admits and counts inference calls.
        bell: wakes the loop on which calls are answered.
        threads: what takes long to decode is decoded on.
        limits: of each encoded image.
        max_request_pixels: of all encoded images of a request together.
        allow_repository_control: callers may load and unload cascades.
        on_change: called when a caller did so.
        regions: the shared memory that requests may use; None serves none.
        region_control: what callers register regions with; None is ``regions`` itself.
        siblings: the processes on the same port that statistics speak for; None is alone.
    """

    def __init__(
        self,
        repository: Repository,
        desk: Desk,
        bell: Bell,
        threads: Executor,
        *,
        limits: DecodeLimits,
        max_request_pixels: int,
        allow_repository_control: bool,
        on_change: Callable[[], None],
        regions: RegionTable | None = None,
        region_control: RegionControl | None = None,
        siblings: Siblings | None = None,
    ) -> None:
        self._repository = repository
        self._desk = desk
        self._bell = bell
        self._threads = threads
        self._limits = limits
        self._max_request_pixels = max_request_pixels
        self._allow_repository_control = allow_repository_control
        self._on_change = on_change
        self._regions = regions
        self._region_control = region_control or regions
        self._siblings = siblings

    @answering_soon
    async def ServerLive(self, request: pb2.ServerLiveRequest, context: _AnyContext) -> pb2.ServerLiveResponse:
        """Tell that the process is there."""
        return pb2.ServerLiveResponse(live=True)

    @answering_soon
    async def ServerReady(self, request: pb2.ServerReadyRequest, context: _AnyContext) -> pb2.ServerReadyResponse:
        """Tell whether every cascade is warm and the server is not draining."""
        return pb2.ServerReadyResponse(ready=self._repository.is_ready and not self._desk.is_draining)

    @answering_soon
    async def ModelReady(self, request: pb2.ModelReadyRequest, context: _AnyContext) -> pb2.ModelReadyResponse:
        """Tell whether a cascade, or a member's cascade, answers; False for a name that nobody has."""
        ready = not self._desk.is_draining and is_ready(self._repository, request.name, request.version)
        return pb2.ModelReadyResponse(ready=ready)

    @answering
    def ServerMetadata(
        self, request: pb2.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> pb2.ServerMetadataResponse:
        """Tell name, version and extensions."""
        extensions = EXTENSIONS if self._regions is None else (*EXTENSIONS, SHARED_MEMORY_EXTENSION)
        return pb2.ServerMetadataResponse(name=SERVER_NAME, version=__version__, extensions=extensions)

    @answering
    def ModelMetadata(
        self, request: pb2.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb2.ModelMetadataResponse:
        """Describe the tensors of a cascade or a member."""
        with find(self._repository, request.name, request.version) as subject:
            entries = self._repository.index()
            versions = [
                entry.version for entry in entries if (entry.name, entry.state) == (subject.served.name, "READY")
            ]
            return describe.metadata(subject, versions)

    @answering
    def ModelConfig(self, request: pb2.ModelConfigRequest, context: grpc.ServicerContext) -> pb2.ModelConfigResponse:
        """Describe all that is known of a cascade or a member."""
        with find(self._repository, request.name, request.version) as subject:
            return pb2.ModelConfigResponse(config=describe.config(subject))

    @answering
    def ModelStatistics(
        self, request: pb2.ModelStatisticsRequest, context: grpc.ServicerContext
    ) -> pb2.ModelStatisticsResponse:
        """Give counts and times of a cascade or a member, or of everything when no name is given."""
        if request.name:
            with find(self._repository, request.name, request.version) as subject:
                statistics = [self._desk.traffic.statistics(subject)]
        else:
            statistics = self._desk.traffic.all_statistics(self._repository)
        return pb2.ModelStatisticsResponse(model_stats=self._of_all_processes(statistics))

    def _of_all_processes(self, statistics: list[pb2.ModelStatistics]) -> list[pb2.ModelStatistics]:
        if self._siblings is None:
            return statistics
        sums = self._siblings.statistics()
        return [
            read_tally(one.name, one.version, sums[tally_key(one)]) if tally_key(one) in sums else one
            for one in statistics
        ]

    @answering
    def RepositoryIndex(
        self, request: pb2.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> pb2.RepositoryIndexResponse:
        """List every version of every cascade."""
        _check_repository(request.repository_name)
        response = pb2.RepositoryIndexResponse()
        for entry in self._repository.index():
            if entry.state == "READY" or not request.ready:
                response.models.add(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
        return response

    @answering
    def RepositoryModelLoad(
        self, request: pb2.RepositoryModelLoadRequest, context: grpc.ServicerContext
    ) -> pb2.RepositoryModelLoadResponse:
        """Load a cascade's newest version."""
        self._check_control(request, ())
        self._repository.load(request.model_name)
        self._on_change()
        return pb2.RepositoryModelLoadResponse()

    @answering
    def RepositoryModelUnload(
        self, request: pb2.RepositoryModelUnloadRequest, context: grpc.ServicerContext
    ) -> pb2.RepositoryModelUnloadResponse:
        """Drain and unload a cascade."""
        # Its members go with it, whether the caller says so or not.
        self._check_control(request, ("unload_dependents",))
        self._repository.unload(request.model_name)
        self._on_change()
        return pb2.RepositoryModelUnloadResponse()

    @answering
    def SystemSharedMemoryStatus(
        self, request: pb2.SystemSharedMemoryStatusRequest, context: grpc.ServicerContext
    ) -> pb2.SystemSharedMemoryStatusResponse:
        """List the regions of shared memory, or one."""
        response = pb2.SystemSharedMemoryStatusResponse()
        for spec in self._check_regions().status(request.name):
            region = response.regions[spec.name]
            region.name, region.key, region.offset, region.byte_size = spec.name, spec.key, spec.offset, spec.byte_size
        return response

    @answering
    def SystemSharedMemoryRegister(
        self, request: pb2.SystemSharedMemoryRegisterRequest, context: grpc.ServicerContext
    ) -> pb2.SystemSharedMemoryRegisterResponse:
        """Make a region of shared memory known."""
        spec = RegionSpec(name=request.name, key=request.key, offset=request.offset, byte_size=request.byte_size)
        self._check_regions().register(spec)
        return pb2.SystemSharedMemoryRegisterResponse()

    @answering
    def SystemSharedMemoryUnregister(
        self, request: pb2.SystemSharedMemoryUnregisterRequest, context: grpc.ServicerContext
    ) -> pb2.SystemSharedMemoryUnregisterResponse:
        """Forget a region of shared memory, or all."""
        self._check_regions().unregister(request.name)
        return pb2.SystemSharedMemoryUnregisterResponse()

    @answering
    def CudaSharedMemoryUnregister(
        self, request: pb2.CudaSharedMemoryUnregisterRequest, context: grpc.ServicerContext
    ) -> pb2.CudaSharedMemoryUnregisterResponse:
        """Do nothing: none is ever registered, and clients ask for this together with the other, to begin anew."""
        self._check_regions()
        return pb2.CudaSharedMemoryUnregisterResponse()

    @answering_soon
    async def ModelInfer(self, request: pb2.ModelInferRequest, context: _Context) -> pb2.ModelInferResponse:
        """Classify images."""
        deadline_s = _deadline_s(context)
        with self._desk.visit(deadline_s) as visit:
            try:
                return await self._infer(request, deadline_s, visit)
            except NotFoundError:
                refuse_member(self._repository, request.model_name, request.model_version)
                raise

    async def _infer(
        self, request: pb2.ModelInferRequest, deadline_s: float | None, visit: Visit
    ) -> pb2.ModelInferResponse:
        with self._repository.acquire(request.model_name, request.model_version) as served:
            visit.found(served)
            if is_light(request):
                query, ticket = self._admit(request, served, deadline_s)
            else:
                query, ticket = await self._admit_on_thread(request, served, deadline_s)
            visit.accepted(query.request)
            reply = await self._answer(ticket)
            visit.answered(reply)
            return encode_reply(reply, query.outputs, served.name, served.version, request.id)

    def _admit(
        self,
        request: pb2.ModelInferRequest,
        served: Served,
        deadline_s: float | None,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> tuple[Query, Ticket]:
        """Decode a request and bring it to the engine."""
        query = decode_request(
            request,
            served.bundle.plan,
            max_rows=served.engine.config.max_queue_rows,
            limits=self._limits,
            max_request_pixels=self._max_request_pixels,
            deadline_s=deadline_s,
            is_wanted=is_wanted,
            regions=self._regions,
        )
        return query, served.engine.admit(query.request, self._bell)

    async def _admit_on_thread(
        self, request: pb2.ModelInferRequest, served: Served, deadline_s: float | None
    ) -> tuple[Query, Ticket]:
        """The same for a request that takes so long that other calls would wait for it."""
        gone = threading.Event()
        admitting = self._threads.submit(self._admit, request, served, deadline_s, lambda: not gone.is_set())
        try:
            return await asyncio.wrap_future(admitting)
        except asyncio.CancelledError:
            gone.set()
            admitting.add_done_callback(_take_back)
            raise
        finally:
            # Its error's traceback leads here: message and error would keep each other.
            del admitting

    async def _answer(self, ticket: Ticket) -> Reply:
        """Wait for the reply; the rows of a caller that goes are taken out."""
        alarm = None if ticket.due_s == math.inf else _Alarm(ticket)
        try:
            await self._bell.closing(ticket)
        except asyncio.CancelledError:
            _drop(ticket)
            raise
        finally:
            if alarm is not None:
                alarm.stop()
        return ticket.result()

    def _check_regions(self) -> RegionControl:
        if self._region_control is None:
            raise NotAllowedError("this server was started without --allow-shared-memory")
        return self._region_control

    def _check_control(
        self, request: pb2.RepositoryModelLoadRequest | pb2.RepositoryModelUnloadRequest, known: tuple[str, ...]
    ) -> None:
        if not self._allow_repository_control:
            raise NotAllowedError("this server was started without --allow-repository-control")
        _check_repository(request.repository_name)
        for name in request.parameters:
            if name not in known:
                raise InvalidRequestError("parameters", repr(name), f"among {', '.join(known)}" if known else "empty")


def _check_repository(name: str) -> None:
    if name:
        raise InvalidRequestError("repository_name", repr(name), "empty: the server has one repository")


def _deadline_s(context: _Context) -> float | None:
    """Move gRPC's deadline onto the monotonic clock; None where the caller set none."""
    # The stubs know of no None.
    remaining_s = cast("float | None", context.time_remaining())
    return None if remaining_s is None else time.monotonic() + remaining_s


class _Alarm:
    """Ends a ticket when its time is up, unless it was closed before; for the loop's thread."""

    def __init__(self, ticket: Ticket) -> None:
        self._ticket = ticket
        self._set()

    def _set(self) -> None:
        wait_s = max(0.0, self._ticket.due_s - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._go_off)

    def _go_off(self) -> None:
        self._ticket.expire()
        if not self._ticket.is_closed:
            # A timer may go off a little early.
            self._set()

    def stop(self) -> None:
        """Leave the ticket alone from now on."""
        self._timer.cancel()


def _drop(ticket: Ticket) -> None:
    """Take a ticket's rows out and free its slots."""
    ticket.cancel()
    with suppress(CascadeError):
        ticket.result()


def _take_back(admitting: "Future[tuple[Query, Ticket]]") -> None:
    """Drop what a thread admitted for a caller that had gone meanwhile."""
    if not admitting.cancelled() and admitting.exception() is None:
        _, ticket = admitting.result()
        _drop(ticket)

"""What surrounds the calls: health, reflection, limits, deadlines, cancellation, loading, draining, TLS."""
# Shapes: B rows, HWC image.

import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from fake_engine import CASCADE, FakeEngine, as_fake, image_of
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from served_cascade import ServeCascade, ServedCascade

from cascade_serve import Client
from cascade_serve.core.arrays import ImageArray
from cascade_serve.errors import ConfigError
from cascade_serve.rpc import tensors
from cascade_serve.rpc.client import ClientTls
from cascade_serve.rpc.remote import (
    RemoteCancelledError,
    RemoteError,
    RemoteNotAllowedError,
    RemoteOverloadedError,
    RemoteUnavailableError,
)
from cascade_serve.rpc.server import Server, ServerConfig, TlsConfig
from cascade_serve.rpc.stubs import grpc_service_pb2 as pb2
from cascade_serve.rpc.stubs.grpc_service_pb2_grpc import GRPCInferenceServiceStub

IMAGE_HWC = image_of(0, 255)
SERVICES = {"inference.GRPCInferenceService", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


@pytest.fixture
def channel(served: ServedCascade) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(served.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield channel


@pytest.fixture
def own(serve_cascade: ServeCascade) -> ServedCascade:
    """A server that the test may stop."""
    return serve_cascade(ServerConfig(port=0, max_in_flight_requests=2))


@pytest.fixture
def own_fake(own: ServedCascade) -> FakeEngine:
    """The engine of ``own``, for tests that hold it."""
    return as_fake(own.engines[-1])


def infer_request() -> pb2.ModelInferRequest:
    return pb2.ModelInferRequest.FromString(Client.encode(IMAGE_HWC, model=CASCADE))


def test_probes_are_answered_while_many_loads_wait(served: ServedCascade, monkeypatch: pytest.MonkeyPatch) -> None:
    loads, may_end = threading.Semaphore(0), threading.Event()

    def load(_cascade: str) -> None:
        loads.release()
        assert may_end.wait(60)

    monkeypatch.setattr(served.repository, "load", load)
    # More than the threads that control has.
    with grpc.insecure_channel(served.address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        request = pb2.RepositoryModelLoadRequest(model_name=CASCADE)
        loading = [stub.RepositoryModelLoad.future(request, timeout=60) for _ in range(40)]
        try:
            assert all(loads.acquire(timeout=20) for _ in range(16))
            assert stub.ServerLive(pb2.ServerLiveRequest(), timeout=10).live
            assert stub.ServerReady(pb2.ServerReadyRequest(), timeout=10).ready
            assert stub.ModelReady(pb2.ModelReadyRequest(name=CASCADE), timeout=10).ready
        finally:
            may_end.set()
        for one in loading:
            one.result()


def test_health_is_told_for_the_server_and_for_each_cascade(served: ServedCascade) -> None:
    assert served.client.health() == "SERVING"
    assert served.client.health(CASCADE) == "SERVING"
    assert served.client.health("birds") == "SERVICE_UNKNOWN"
    assert served.client.is_live()
    assert served.client.is_ready()
    assert served.client.is_ready(f"{CASCADE}.large")
    assert not served.client.is_ready("birds")
    assert not served.client.is_ready(f"{CASCADE}.tiny")
    served.client.wait_until_serving(CASCADE, timeout_s=5)


def test_a_watch_follows_a_cascade_through_unloading_and_loading(served: ServedCascade, channel: grpc.Channel) -> None:
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=CASCADE), timeout=20)
    names = (health_pb2.HealthCheckResponse.ServingStatus.Name(response.status) for response in watch)
    assert next(names) == "SERVING"
    served.client.unload(CASCADE)
    assert next(names) == "NOT_SERVING"
    with pytest.raises(RemoteError, match=r"^NOT_FOUND: cascade 'pets' not found; known: none$"):
        served.client.infer(IMAGE_HWC, model=CASCADE)
    assert served.metric("cascade_bundle_version", cascade=CASCADE) == 0
    served.client.load(CASCADE)
    assert next(names) == "SERVING"
    watch.cancel()
    served.client.infer(IMAGE_HWC, model=CASCADE)


def test_many_watches_hold_no_threads(own: ServedCascade) -> None:
    # More than the server has threads for.
    with grpc.insecure_channel(own.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = []
        for _ in range(50):
            watches.append(stub.Watch(health_pb2.HealthCheckRequest(), timeout=20))
            assert next(watches[-1]).status == health_pb2.HealthCheckResponse.SERVING
        own.client.infer(IMAGE_HWC, model=CASCADE)
        for watch in watches:
            watch.cancel()


def test_a_watch_of_an_unknown_service_says_so_and_stays(channel: grpc.Channel) -> None:
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="birds"), timeout=20)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    assert watch.is_active()
    watch.cancel()


def reflect(channel: grpc.Channel, **question: str) -> reflection_pb2.ServerReflectionResponse:
    request = reflection_pb2.ServerReflectionRequest(**question)
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    (response,) = stub.ServerReflectionInfo(iter([request]), timeout=20)
    return response


def test_reflection_lists_and_describes_every_service(channel: grpc.Channel) -> None:
    listed = reflect(channel, list_services="").list_services_response.service
    assert {service.name for service in listed} == SERVICES
    for service in SERVICES:
        files = reflect(channel, file_containing_symbol=service).file_descriptor_response.file_descriptor_proto
        # As a client like grpcurl does: what came must be enough to build every message.
        pool = DescriptorPool()
        protos = {proto.name: proto for proto in map(FileDescriptorProto.FromString, files)}
        while protos:
            ready = next(name for name, proto in protos.items() if not set(proto.dependency) & set(protos))
            pool.Add(protos.pop(ready))  # type: ignore[no-untyped-call]
        described = pool.FindServiceByName(service)  # type: ignore[no-untyped-call]
        assert all(method.input_type.fields is not None for method in described.methods)


def test_reflection_describes_our_messages(channel: grpc.Channel) -> None:
    found = reflect(channel, file_containing_symbol="inference.ModelConfig").file_descriptor_response
    names = [FileDescriptorProto.FromString(file).name for file in found.file_descriptor_proto]
    assert names == ["model_config.proto"]
    assert reflect(channel, file_containing_symbol="inference.Nothing").error_response.error_code == 5


def test_a_cancelled_call_takes_its_rows_out(served: ServedCascade, channel: grpc.Channel, fake: FakeEngine) -> None:
    fake.hold()
    failed = {"cascade": CASCADE, "policy": "default", "outcome": "CANCELLED"}
    before = served.metric("cascade_request_duration_seconds_count", **failed)
    call = GRPCInferenceServiceStub(channel).ModelInfer.future(infer_request())
    fake.wait_for_tickets(1)
    call.cancel()
    fake.wait_for_tickets(0)
    assert fake.num_cancelled == 1
    while served.server.in_flight:
        served.client.is_live()
    assert served.metric("cascade_request_duration_seconds_count", **failed) == before + 1


@pytest.mark.parametrize("by", ["grpc", "parameter"])
def test_a_deadline_ends_the_wait(served: ServedCascade, channel: grpc.Channel, fake: FakeEngine, by: str) -> None:
    fake.hold()
    late = {"cascade": CASCADE, "policy": "default", "outcome": "DEADLINE_EXCEEDED"}
    before = served.metric("cascade_request_duration_seconds_count", **late)
    request = infer_request()
    if by == "parameter":
        request.parameters["timeout"].int64_param = 50_000
    with pytest.raises(grpc.RpcError) as caught:
        GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=0.1 if by == "grpc" else 20)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    fake.wait_for_tickets(0)
    while served.server.in_flight:
        served.client.is_live()
    assert served.metric("cascade_request_duration_seconds_count", **late) == before + 1


def test_a_deadline_that_comes_while_images_are_decoded_is_no_abandonment(
    served: ServedCascade, channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    begins, may_end = threading.Semaphore(0), threading.Event()

    def decode(*_args: object, **_options: object) -> ImageArray:
        begins.release()
        assert may_end.wait(60)
        return IMAGE_HWC

    monkeypatch.setattr(tensors, "decode_image", decode)
    request = pb2.ModelInferRequest(model_name=CASCADE)
    request.inputs.add(name="encoded", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"held")
    late = {"cascade": CASCADE, "reason": "late"}
    before = served.metric("cascade_rejections_total", **late)
    try:
        with pytest.raises(grpc.RpcError) as caught:
            GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=0.5)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert begins.acquire(timeout=20)
        while served.server.in_flight:
            served.client.is_live()
    finally:
        may_end.set()
    assert served.metric("cascade_rejections_total", **late) == before + 1


def test_the_earlier_of_two_deadlines_counts(served: ServedCascade, channel: grpc.Channel, fake: FakeEngine) -> None:
    fake.hold()
    request = infer_request()
    request.parameters["timeout"].int64_param = 3_600_000_000
    with pytest.raises(grpc.RpcError):
        GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=0.1)
    fake.wait_for_tickets(0)


def test_a_call_without_a_deadline_waits(served: ServedCascade, channel: grpc.Channel, fake: FakeEngine) -> None:
    fake.hold()
    call = GRPCInferenceServiceStub(channel).ModelInfer.future(infer_request())
    fake.wait_for_tickets(1)
    assert fake.tickets[0].request.deadline_s is None
    fake.release()
    assert call.result(20).model_name == CASCADE


def test_a_full_house_refuses_at_once_and_still_answers_probes(own: ServedCascade, own_fake: FakeEngine) -> None:
    own_fake.hold()
    with ThreadPoolExecutor(2) as pool:
        inside = [pool.submit(own.client.infer, IMAGE_HWC, model=CASCADE) for _ in range(2)]
        own_fake.wait_for_tickets(2)
        with pytest.raises(RemoteOverloadedError, match=r"^RESOURCE_EXHAUSTED: 2 requests are in flight, the most"):
            own.client.infer(IMAGE_HWC, model=CASCADE)
        assert own.client.is_live()
        assert own.client.health() == "SERVING"
        own_fake.release()
        assert [future.result(20).policy for future in inside] == ["default"] * 2
    assert own.metric("cascade_rejections_total", cascade="(unknown)", reason="full") == 1


def test_a_drain_reports_refuses_finishes_and_closes(own: ServedCascade, own_fake: FakeEngine) -> None:
    own_fake.hold()
    with ThreadPoolExecutor(2) as pool, grpc.insecure_channel(own.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        inside = pool.submit(own.client.infer, IMAGE_HWC, model=CASCADE)
        own_fake.wait_for_tickets(1)
        stopped = pool.submit(own.server.stop, grace_s=20)
        assert [response.status for response in watch] == [health_pb2.HealthCheckResponse.NOT_SERVING]
        while own.client.is_ready(CASCADE):
            pass
        with pytest.raises(RemoteUnavailableError, match="UNAVAILABLE: the server is draining; another replica may"):
            own.client.infer(IMAGE_HWC, model=CASCADE)
        assert own.client.health() == "NOT_SERVING"
        assert not own.client.is_ready()
        assert not own.client.is_ready(CASCADE)
        own_fake.release()
        assert inside.result(20).policy == "default"
        assert stopped.result(20) is True
    with pytest.raises(RemoteUnavailableError):
        own.client.infer(IMAGE_HWC, model=CASCADE)
    assert own.server.wait(1)
    assert own.server.stop()


def test_calls_past_the_grace_are_cut_off(own: ServedCascade, own_fake: FakeEngine) -> None:
    own_fake.hold()
    with ThreadPoolExecutor(1) as pool:
        inside = pool.submit(own.client.infer, IMAGE_HWC, model=CASCADE)
        own_fake.wait_for_tickets(1)
        assert own.server.stop(grace_s=0.1) is False
        with pytest.raises((RemoteCancelledError, RemoteUnavailableError)):
            inside.result(20)
    assert own_fake.num_cancelled == 1


def test_an_open_reflection_stream_does_not_hold_up_the_stop(own: ServedCascade) -> None:
    asked = threading.Event()

    def questions() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        asked.wait(30)

    with grpc.insecure_channel(own.address) as channel:
        stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(questions())
        next(stream)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(own.server.stop, grace_s=60).result(15) is True
        asked.set()


def test_repository_control_needs_the_flag(own: ServedCascade) -> None:
    for method in (own.client.load, own.client.unload):
        with pytest.raises(
            RemoteNotAllowedError, match=r"^PERMISSION_DENIED: this server was started without --allow-"
        ):
            method(CASCADE)


def test_repository_calls_check_their_arguments(served: ServedCascade, channel: grpc.Channel) -> None:
    stub = GRPCInferenceServiceStub(channel)
    refused = [
        (
            stub.RepositoryIndex,
            pb2.RepositoryIndexRequest(repository_name="x"),
            "repository_name: got 'x'; must be empty",
        ),
        (stub.RepositoryModelLoad, pb2.RepositoryModelLoadRequest(repository_name="x"), "repository_name: got 'x'"),
    ]
    for method, request, message in refused:
        with pytest.raises(grpc.RpcError, match=message):
            method(request)  # type: ignore[operator]
    load = pb2.RepositoryModelLoadRequest(model_name=CASCADE)
    load.parameters["config"].string_param = "{}"
    with pytest.raises(grpc.RpcError, match="parameters: got 'config'; must be empty"):
        stub.RepositoryModelLoad(load)
    with pytest.raises(RemoteError, match=r"^NOT_FOUND: cascade 'birds' not found; known: pets$"):
        served.client.load("birds")


def test_a_taken_port_is_a_config_error(served: ServedCascade) -> None:
    config = ServerConfig(port=served.server.port)
    with pytest.raises(
        ConfigError, match=rf"^address 127.0.0.1:{served.server.port}: can't listen on it; is it in use\?"
    ):
        Server(served.repository, served.metrics, config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"port": 70_000}, "port: got 70000; must be between 0 and 65535"),
        ({"max_in_flight_requests": 0}, "max_in_flight_requests: got 0; must be between 1 and 10000"),
        ({"max_message_bytes": 5}, "max_message_bytes: got 5; must be between 1024 and 2147483647"),
        ({"max_request_pixels": 9}, "max_request_pixels: got 9; must be between 40000000 and 9223372036854775807"),
        ({"max_connection_age_s": 0.1}, "max_connection_age_s: got 0.1; must be 1 second to a year"),
    ],
)
def test_a_config_out_of_range_is_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServerConfig(**fields)  # type: ignore[arg-type]


def test_ipv6_addresses_are_bracketed() -> None:
    assert ServerConfig(host="::1", port=9).address == "[::1]:9"
    assert ServerConfig(host="localhost", port=9).address == "localhost:9"


def run_openssl(folder: Path, *arguments: str) -> None:
    try:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs the openssl command")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and certificates that it signed for a server and a client."""
    folder = tmp_path_factory.mktemp("certificates")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run_openssl(folder, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    for name in ("server", "client"):
        request = ("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        run_openssl(folder, "req", "-new", *key, *request)
        signed = ("-in", f"{name}.csr", "-out", f"{name}.pem", "-days", "2", "-extfile", "names")
        run_openssl(folder, "x509", "-req", *signed, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
    return folder


@pytest.mark.parametrize("is_mutual", [False, True])
def test_tls_asks_for_the_certificates_it_was_told_to(
    serve_cascade: ServeCascade, certificates: Path, is_mutual: bool
) -> None:
    authority = certificates / "ca.pem"
    tls = TlsConfig(
        certificate=certificates / "server.pem",
        key=certificates / "server.key",
        client_authority=authority if is_mutual else None,
    )
    served = serve_cascade(ServerConfig(port=0, tls=tls))
    url = f"localhost:{served.server.port}"
    known = ClientTls(authority=authority, certificate=certificates / "client.pem", key=certificates / "client.key")
    with Client(url, timeout_s=20, tls=known) as client:
        assert client.infer(IMAGE_HWC, model=CASCADE).policy == "default"
    with Client(url, timeout_s=20, tls=ClientTls(authority=authority)) as stranger:
        assert stranger.is_live() is not is_mutual
    with Client(url, timeout_s=20) as plain:
        assert not plain.is_live()


def test_a_missing_certificate_is_a_config_error(served: ServedCascade, tmp_path: Path) -> None:
    missing = tmp_path / "none.pem"
    with pytest.raises(ConfigError, match=rf"^{missing}: No such file or directory$"):
        Server(served.repository, served.metrics, ServerConfig(port=0, tls=TlsConfig(certificate=missing, key=missing)))
    with pytest.raises(ConfigError, match=rf"^{missing}: No such file or directory$"):
        Client("localhost:1", tls=ClientTls(authority=missing))


def test_a_server_that_never_started_gives_its_port_back(served: ServedCascade) -> None:
    server = Server(served.repository, served.metrics, ServerConfig(port=0))
    assert server.stop()
    Server(served.repository, served.metrics, ServerConfig(port=server.port)).stop()

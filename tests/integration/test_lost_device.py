"""A member that fails on every image takes its cascade out of service, and an answer brings it back."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx_bundle import IMAGE_SHAPE, write_linear_bundle

from cascade_serve import Client
from cascade_serve.core.arrays import FloatArray, ImageArray
from cascade_serve.engine.sessions import SessionRunner
from cascade_serve.errors import MemberError
from cascade_serve.rpc.remote import RemoteError
from cascade_serve.rpc.server import ServerConfig
from cascade_serve.serving import ServeConfig, ServingProcess

CASCADE = "pets"
IMAGE_HWC = np.zeros(IMAGE_SHAPE, dtype=np.uint8)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    write_linear_bundle(tmp_path / "repository" / CASCADE / "1", tmp_path / "sources")
    config = ServeConfig(
        repository=tmp_path / "repository", server=ServerConfig(port=0), metrics_port=0, watch_interval_s=0.05
    )
    process = ServingProcess(config)
    process.start()
    yield f"127.0.0.1:{process.server.port}"
    process.stop()


def lose_device(_runner: SessionRunner, _member: int, _images_BHWC: ImageArray) -> FloatArray:
    raise MemberError("the device is lost")


def test_checks_and_watches_tell_of_a_lost_device(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(url) as client, grpc.insecure_channel(url) as channel:
        request = health_pb2.HealthCheckRequest(service=CASCADE)
        watch = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=20)
        names = (health_pb2.HealthCheckResponse.ServingStatus.Name(response.status) for response in watch)
        assert next(names) == "SERVING"
        with monkeypatch.context() as patch:
            patch.setattr(SessionRunner, "run", lose_device)
            with pytest.raises(RemoteError, match=r"^INTERNAL: row 0: member 'small' failed"):
                client.infer(IMAGE_HWC, model=CASCADE)
        assert client.health() == client.health(CASCADE) == "NOT_SERVING"
        assert not client.is_ready(CASCADE)
        assert next(names) == "NOT_SERVING"
        client.infer(IMAGE_HWC, model=CASCADE)
        assert client.health() == client.health(CASCADE) == "SERVING"
        assert next(names) == "SERVING"
        watch.cancel()

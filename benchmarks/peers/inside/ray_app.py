"""Ray Serve's model composition: an ingress that asks one deployment a member."""
# Shapes: B images of a request, K classes, HWC image.

import signal
import socket
import threading
from typing import Any

import numpy as np
import ray
from google.protobuf.wrappers_pb2 import BytesValue
from hand_written import Member, Settings, pack, read_settings
from numpy.typing import NDArray
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions
from ray.serve.handle import DeploymentHandle

_MAX_ONGOING = 256
"""Requests that a replica may hold: more than the benchmark ever has in flight."""


@serve.deployment
class MemberDeployment:
    """One member."""

    def __init__(self, graph: str, settings: Settings) -> None:
        self._member = Member(graph, settings)

    async def __call__(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Give probabilities, float32 [B, K]."""
        return self._member.probabilities(images_BHWC)


@serve.deployment
class CascadeDeployment:
    """The ingress: asks the first member, then the second about the rows that are not sure."""

    def __init__(self, small: DeploymentHandle[Any], large: DeploymentHandle[Any], settings: Settings) -> None:
        self._small = small
        self._large = large
        self._settings = settings

    async def Classify(self, request: BytesValue) -> BytesValue:  # noqa: N802 - the name of the gRPC method
        """Answer one request."""
        images_BHWC = np.frombuffer(request.value, np.uint8).reshape(-1, *self._settings.image_shape)
        mean_BK = np.array(await self._small.remote(images_BHWC))
        staying = np.flatnonzero(mean_BK.max(axis=1) < self._settings.threshold)
        if len(staying):
            more_BK = await self._large.remote(images_BHWC[staying])
            mean_BK[staying] += (more_BK - mean_BK[staying]) / np.float32(2)
        return BytesValue(value=pack(mean_BK))


def build(settings: Settings) -> Any:
    """Compose the application, with a replica a core of each deployment."""
    # More processes than cores take turns, so none may reserve a whole one.
    options: dict[str, Any] = {
        "num_replicas": settings.workers,
        "max_ongoing_requests": _MAX_ONGOING,
        "ray_actor_options": {"num_cpus": 0.1},
    }
    # The decorator's type says that it gives the class back; it gives a deployment.
    member: Any = MemberDeployment
    ingress: Any = CascadeDeployment
    members = [
        member.options(name=f"member{stage}", **options).bind(graph, settings)
        for stage, graph in enumerate(settings.graphs)
    ]
    return ingress.options(**options).bind(*members, settings)


def _free_port() -> int:
    """HTTP is not used, but HAProxy wants a port for it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    """Serve until SIGTERM."""
    settings = read_settings()
    ray.init("local", num_cpus=settings.workers, include_dashboard=False, log_to_driver=False)
    serve.start(
        http_options=HTTPOptions(host="127.0.0.1", port=_free_port()),
        grpc_options=gRPCOptions(port=settings.port, grpc_servicer_functions=["ray_service.add_to_server"]),
    )
    serve.run(build(settings), name="default", route_prefix="/")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()


if __name__ == "__main__":
    main()

"""From the wire to core's nouns and back: the way in and out of every request."""
# Shapes: B rows, K classes, HWC image.

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from cascade_serve.core.plan import Plan
from cascade_serve.core.request import Reply, Request
from cascade_serve.rpc.parameters import read_parameters
from cascade_serve.rpc.stubs.grpc_service_pb2 import ModelInferRequest, ModelInferResponse
from cascade_serve.rpc.tensors import OUTPUTS, Admission, read_images, read_output_names
from model_zoo.preprocess import DecodeLimits


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A request as the engine takes it, and the outputs that its answer shall have."""

    request: Request
    outputs: tuple[str, ...]


def decode_request(
    message: ModelInferRequest,
    plan: Plan,
    *,
    max_rows: int,
    limits: DecodeLimits,
    max_request_pixels: int,
    deadline_s: float | None,
    is_wanted: Callable[[], bool],
) -> Query:
    """Read a request.

    Args:
        message: what came in.
        plan: what the cascade serves.
        max_rows: images a request may hold.
        limits: of each encoded image.
        max_request_pixels: of all encoded images of a request together.
        deadline_s: gRPC's own, on ``time.monotonic``'s clock; a ``timeout`` parameter may set an earlier one.
        is_wanted: tells whether the caller still waits.

    Raises:
        InvalidRequestError: a tensor, an output or a parameter is not what the cascade takes.
        LateError: the deadline passed while images were decoded.
        AbandonedError: the caller went meanwhile.
    """
    terms, timeout_s = read_parameters(message.parameters)
    if timeout_s is not None:
        own_s = time.monotonic() + timeout_s
        deadline_s = own_s if deadline_s is None else min(own_s, deadline_s)
    outputs = read_output_names(message)
    admission = Admission(
        task=plan.task,
        max_rows=max_rows,
        limits=limits,
        max_request_pixels=max_request_pixels,
        deadline_s=deadline_s,
        is_wanted=is_wanted,
    )
    images_BHWC = read_images(message, admission)
    return Query(request=Request(images_BHWC=images_BHWC, terms=terms, deadline_s=deadline_s), outputs=outputs)


def encode_reply(
    reply: Reply, outputs: tuple[str, ...], model_name: str, model_version: int, request_id: str
) -> ModelInferResponse:
    """Write an answer: the outputs asked for, in that order, and the response's two parameters."""
    response = ModelInferResponse()
    response.CopyFrom(
        _head(model_name, model_version, outputs, reply.probabilities_BK.shape, reply.policy, reply.certified)
    )
    response.id = request_id
    response.raw_output_contents.extend([OUTPUTS[name].write(reply) for name in outputs])
    return response


# NOTE: shared by all threads; to be copied, never changed.
@lru_cache(maxsize=256)
def _head(  # noqa: PLR0917 - together they are the cache's key
    model_name: str, model_version: int, outputs: tuple[str, ...], shape: tuple[int, ...], policy: str, certified: bool
) -> ModelInferResponse:
    """Write all of an answer but its contents: the same for many requests, and most of the work."""
    head = ModelInferResponse(model_name=model_name, model_version=str(model_version))
    head.parameters["policy"].string_param = policy
    head.parameters["certified"].bool_param = certified
    for name in outputs:
        output = OUTPUTS[name]
        head.outputs.add(name=name, datatype=output.datatype, shape=shape if output.has_classes else shape[:1])
    return head

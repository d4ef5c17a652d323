"""From the wire to core's nouns and back: the way in and out of every request."""
# Shapes: B rows, K classes, HWC image.

import math
import time
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from cascade_serve.core.plan import Plan
from cascade_serve.core.request import Reply, Request
from cascade_serve.rpc.outputs import OUTPUTS, Wanted, check_room, read_outputs
from cascade_serve.rpc.parameters import read_parameters
from cascade_serve.rpc.shared_memory import BYTE_SIZE, OFFSET, REGION, RegionTable
from cascade_serve.rpc.stubs.grpc_service_pb2 import ModelInferRequest, ModelInferResponse
from cascade_serve.rpc.tensors import IMAGES, Admission, read_images
from model_zoo.preprocess import DecodeLimits

# Such a request is read and copied in some 0.1 ms.
_LIGHT_BYTES = 1 << 18


class Query(NamedTuple):
    """A request as the engine takes it, and the outputs that its answer shall have.

    Attributes:
        request: the rows and the caller's terms.
        outputs: of the answer.
    """

    request: Request
    outputs: Wanted


def is_light(message: ModelInferRequest) -> bool:
    """Tell whether a request is decoded and admitted in less time than it takes to hand it to a thread."""
    inputs = message.inputs
    is_raw = len(inputs) == 1 and inputs[0].name == IMAGES and len(message.raw_input_contents) == 1
    if not is_raw or len(inputs[0].shape) != 4 or math.prod(inputs[0].shape) > _LIGHT_BYTES:
        return False
    # NOTE: protobuf serialises the message for that, which takes longer than to read it.
    return message.ByteSize() <= _LIGHT_BYTES


def decode_request(
    message: ModelInferRequest,
    plan: Plan,
    *,
    max_rows: int,
    limits: DecodeLimits,
    max_request_pixels: int,
    deadline_s: float | None,
    is_wanted: Callable[[], bool],
    regions: RegionTable | None = None,
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
        regions: the shared memory that is registered; None where none is served.

    Raises:
        InvalidRequestError: a tensor, an output or a parameter is not what the cascade takes.
        NotFoundError: a region of shared memory is not registered.
        LateError: the deadline passed while images were decoded.
        AbandonedError: the caller went meanwhile.
    """
    terms, timeout_s = read_parameters(message.parameters)
    if timeout_s is not None:
        own_s = time.monotonic() + timeout_s
        deadline_s = own_s if deadline_s is None else min(own_s, deadline_s)
    outputs = read_outputs(message, regions)
    admission = Admission(
        task=plan.task,
        max_rows=max_rows,
        limits=limits,
        max_request_pixels=max_request_pixels,
        deadline_s=deadline_s,
        is_wanted=is_wanted,
        regions=regions,
    )
    images_BHWC = read_images(message, admission)
    if outputs.spans:
        check_room(outputs, len(images_BHWC), len(plan.task.classes))
    request = Request(
        images_BHWC=images_BHWC,
        terms=terms,
        deadline_s=deadline_s,
        wants_probabilities="probabilities" in outputs.names,
    )
    return Query(request=request, outputs=outputs)


def encode_reply(
    reply: Reply, outputs: Wanted, model_name: str, model_version: int, request_id: str
) -> ModelInferResponse:
    """Write an answer: the outputs asked for, in that order, and the response's two parameters.

    Raises:
        InvalidRequestError: shared memory that an output shall go to can't be written.
    """
    response = ModelInferResponse()
    response.CopyFrom(
        _head(model_name, model_version, outputs.names, reply.probabilities_BK.shape, reply.policy, reply.certified)
    )
    response.id = request_id
    contents = [OUTPUTS[name].write(reply) for name in outputs.names]
    if outputs.spans:
        _share(contents, outputs, response)
    response.raw_output_contents.extend(contents)
    return response


def _share(contents: list[bytes], outputs: Wanted, response: ModelInferResponse) -> None:
    """Move contents to shared memory, and leave an empty entry and a note of where they went."""
    for index, name in enumerate(outputs.names):
        if (span := outputs.spans.get(name)) is not None:
            span.write(contents[index])
            parameters = response.outputs[index].parameters
            parameters[REGION].string_param = span.region.spec.name
            parameters[BYTE_SIZE].int64_param = len(contents[index])
            parameters[OFFSET].int64_param = span.offset
            contents[index] = b""


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

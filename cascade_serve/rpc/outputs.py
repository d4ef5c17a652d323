"""Tensors on their way out: the outputs that a request names, where each goes, and their raw encoding."""
# Shapes: B rows, K classes.

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from cascade_serve.core.request import ExitReason, Reply
from cascade_serve.errors import InvalidRequestError
from cascade_serve.rpc.shared_memory import RegionTable, Span
from cascade_serve.rpc.stubs.grpc_service_pb2 import ModelInferRequest
from cascade_serve.rpc.tensors import check_parameters, pack_bytes

# On the wire every number is little-endian.
_FLOAT32, _INT32, _INT64 = np.dtype("<f4"), np.dtype("<i4"), np.dtype("<i8")
_REASONS = [pack_bytes([reason.name.encode()]) for reason in ExitReason]


class Wanted(NamedTuple):
    """The outputs that one request asks for.

    Attributes:
        names: in the request's order.
        spans: output → where it goes, for those that go to shared memory.
    """

    names: tuple[str, ...]
    spans: Mapping[str, Span] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """One output tensor.

    Attributes:
        datatype: the protocol's word for its elements.
        element_bytes: an element's, at most.
        has_classes: its rows have an element a class; the others one.
        write: gives its raw contents.
    """

    datatype: str
    element_bytes: int
    has_classes: bool = False
    write: Callable[[Reply], bytes]


OUTPUTS: dict[str, Output] = {
    "probabilities": Output(
        datatype="FP32",
        element_bytes=4,
        has_classes=True,
        write=lambda reply: reply.probabilities_BK.astype(_FLOAT32, copy=False).tobytes(),
    ),
    "label": Output(
        datatype="INT64",
        element_bytes=8,
        write=lambda reply: reply.label_B.astype(_INT64, copy=False).tobytes(),
    ),
    "confidence": Output(
        datatype="FP32",
        element_bytes=4,
        write=lambda reply: reply.confidence_B.astype(_FLOAT32, copy=False).tobytes(),
    ),
    "exit_stage": Output(
        datatype="INT32",
        element_bytes=4,
        write=lambda reply: reply.exit_stage_B.astype(_INT32, copy=False).tobytes(),
    ),
    "exit_reason": Output(
        datatype="BYTES",
        element_bytes=max(map(len, _REASONS)),
        write=lambda reply: b"".join([_REASONS[code] for code in reply.exit_reason_B.tolist()]),
    ),
    "flops": Output(
        datatype="INT64",
        element_bytes=8,
        write=lambda reply: reply.flops_B.astype(_INT64, copy=False).tobytes(),
    ),
}
_ALL = Wanted(tuple(OUTPUTS))


def read_outputs(message: ModelInferRequest, regions: RegionTable | None = None) -> Wanted:
    """Read which outputs a request asks for.

    Args:
        message: the request.
        regions: the shared memory that is registered; None where none is served.

    Returns:
        those that it names, or all when it names none.

    Raises:
        InvalidRequestError: one is unknown, stands twice, or has parameters that it can't have.
        NotFoundError: a region is not registered.
    """
    if not message.outputs:
        return _ALL
    names: list[str] = []
    spans: dict[str, Span] = {}
    for output in message.outputs:
        name = output.name
        if output.parameters:
            spans[name] = check_parameters(name, output.parameters, regions).output_span(name, output.parameters)
        names.append(name)
    wanted = _named(tuple(names))
    return wanted._replace(spans=spans) if spans else wanted


@lru_cache(maxsize=256)
def _named(names: tuple[str, ...]) -> Wanted:
    """Check names; most requests ask for what others asked for."""
    for index, name in enumerate(names):
        if name not in OUTPUTS:
            raise InvalidRequestError("outputs", repr(name), f"among {', '.join(OUTPUTS)}")
        if name in names[:index]:
            raise InvalidRequestError("outputs", f"{name!r} twice", "each once")
    return Wanted(names)


def check_room(outputs: Wanted, rows: int, classes: int) -> None:
    """Check, before anything is computed, that outputs fit where they shall go.

    Args:
        outputs: of the request.
        rows: of the request.
        classes: of the cascade.

    Raises:
        InvalidRequestError: one does not fit, or the server may only read there.
    """
    for name, span in outputs.spans.items():
        output = OUTPUTS[name]
        span.check_room(rows * (classes if output.has_classes else 1) * output.element_bytes)

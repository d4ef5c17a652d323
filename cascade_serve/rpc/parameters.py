"""The parameters of a request: the caller's terms on the wire, read strictly and written back the same way."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from cascade_serve.core.cost import parse_flops
from cascade_serve.core.request import Mode, OnDeadline, Terms
from cascade_serve.errors import InvalidRequestError
from cascade_serve.rpc.stubs.grpc_service_pb2 import InferParameter

_MAX_INT64 = 2**63 - 1
_MAX_PRIORITY = 2**32 - 1
_STATELESS = "absent: a cascade keeps no state between requests"
_BINARY = "absent: it belongs to the HTTP protocol, and gRPC's answers are always binary"
# Reserved by the protocol's best-known server, so clients may send them; each gets a reason of its own.
_RESERVED = {
    "sequence_id": _STATELESS,
    "sequence_start": _STATELESS,
    "sequence_end": _STATELESS,
    "headers": "absent: it is a server's own name for a call's metadata",
    "binary_data_output": _BINARY,
    "binary_data": _BINARY,
}
_IGNORED_PREFIX = "triton_"
_TEXTS = frozenset({"policy", "mode", "on_deadline"})

Scalar = float | int | str
_Choice = TypeVar("_Choice", Mode, OnDeadline)


def read_parameters(parameters: Mapping[str, InferParameter]) -> tuple[Terms, float | None]:
    """Read a request's parameters.

    Args:
        parameters: by name; ``triton_*`` is ignored.

    Returns:
        the caller's terms, and the ``timeout`` in seconds; None without one.

    Raises:
        InvalidRequestError: a parameter is unknown, has the wrong type, or is out of its range.
    """
    values: dict[str, object] = {}
    timeout_s: float | None = None
    # Protobuf's items() is several times slower.
    for name in parameters:
        if name == "timeout":
            timeout_s = _timeout(name, _scalar(name, parameters[name]))
        elif name in _READERS:
            values[name] = _READERS[name](name, _scalar(name, parameters[name]))
        elif not name.startswith(_IGNORED_PREFIX):
            _refuse(name)
    return (Terms(**values) if values else _DEFAULT_TERMS), timeout_s  # type: ignore[arg-type]  # one reader a field


def _refuse(name: str) -> None:
    if name in _RESERVED:
        raise InvalidRequestError(name, "a value", _RESERVED[name])
    known = ", ".join(sorted((*_READERS, "timeout")))
    raise InvalidRequestError("parameters", repr(name), f"among {known}")


def _scalar(name: str, parameter: InferParameter) -> Scalar:
    choice = parameter.WhichOneof("parameter_choice")
    if choice is None or choice == "bool_param":
        got = "no value" if choice is None else f"the bool {parameter.bool_param}"
        raise InvalidRequestError(name, got, "a text" if name in _TEXTS else "a number or a text")
    value: Scalar = getattr(parameter, choice)
    return value


def _threshold(name: str, value: Scalar) -> float | tuple[float, ...]:
    if not isinstance(value, str):
        return float(value)
    try:
        thresholds = tuple(_plain_float(part) for part in value.split(","))
    except ValueError:
        limit = "a number between 0 and 1, or several as in 0.9,0.8: one a stage but the last"
        raise InvalidRequestError(name, repr(value), limit) from None
    return thresholds if len(thresholds) > 1 else thresholds[0]


def _plain_float(text: str) -> float:
    """Read a number without what Python takes beyond the wire: underscores, and other scripts' digits."""
    if "_" in text or not text.isascii():
        raise ValueError(text)
    return float(text)


def _max_flops(name: str, value: Scalar) -> int:
    limit = f"a number of FLOPs between 1 and {_MAX_INT64}, such as 81100000 or the text 250M"
    if isinstance(value, str):
        try:
            return parse_flops(value)
        except ValueError:
            raise InvalidRequestError(name, repr(value), limit) from None
    # Rounding down keeps the promise: the cap is never passed.
    return _bounded(name, value, 1, _MAX_INT64, limit)


def _timeout(name: str, value: Scalar) -> float | None:
    limit = f"a number of microseconds between 0 (none) and {_MAX_INT64}"
    microseconds = _bounded(name, _number(name, value, limit), 0, _MAX_INT64, limit)
    return microseconds / 1e6 if microseconds else None


def _priority(name: str, value: Scalar) -> int:
    limit = f"a whole number between 0 and {_MAX_PRIORITY}"
    number = _number(name, value, limit)
    priority = _bounded(name, number, 0, _MAX_PRIORITY, limit)
    if priority != number:
        raise InvalidRequestError(name, value, limit)
    return priority


def _number(name: str, value: Scalar, limit: str) -> float | int:
    if not isinstance(value, str):
        return value
    if not (value.isascii() and value.isdigit() and len(value) < 20):
        raise InvalidRequestError(name, repr(value), limit)
    return int(value)


def _bounded(name: str, value: float, low: int, high: int, limit: str) -> int:
    # NOTE: as a float, 2**63 - 1 is 2**63: compare integers.
    if not math.isfinite(value) or not low <= math.floor(value) <= high:
        raise InvalidRequestError(name, value, limit)
    return math.floor(value)


def _policy(name: str, value: Scalar) -> str:
    if not isinstance(value, str):
        raise InvalidRequestError(name, value, "a text, the name of a policy")
    return value


def _choice(kind: type[_Choice]) -> Callable[[str, Scalar], _Choice]:
    values = {member.value: member for member in kind}
    limit = " or ".join(repr(value) for value in values)

    def read(name: str, value: Scalar) -> _Choice:
        if not isinstance(value, str) or value not in values:
            raise InvalidRequestError(name, repr(value), limit)
        return values[value]

    return read


_DEFAULT_TERMS = Terms()
_READERS: dict[str, Callable[[str, Scalar], object]] = {
    "confidence_threshold": _threshold,
    "max_flops": _max_flops,
    "policy": _policy,
    "mode": _choice(Mode),
    "on_deadline": _choice(OnDeadline),
    "priority": _priority,
}


def write_parameter(parameters: Mapping[str, InferParameter], name: str, value: Scalar | Sequence[float]) -> None:
    """Write one parameter, in the type that loses nothing.

    Args:
        parameters: of the request; changed.
        name: the parameter's.
        value: floats travel as double, integers as int64, texts as they are, several thresholds as a text.
    """
    match value:
        case str():
            parameters[name].string_param = value
        case int() | np.integer():
            parameters[name].int64_param = int(value)
        case float() | np.floating():
            parameters[name].double_param = float(value)
        case _:
            parameters[name].string_param = ",".join(repr(float(one)) for one in value)

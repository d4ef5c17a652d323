import math

import numpy as np
import pytest

from cascade_serve.core.request import Mode, OnDeadline, Terms
from cascade_serve.errors import InvalidRequestError
from cascade_serve.rpc.parameters import read_parameters, write_parameter
from cascade_serve.rpc.stubs.grpc_service_pb2 import InferParameter, ModelInferRequest

THRESHOLDS = "a number between 0 and 1, or several as in 0.9,0.8: one a stage but the last"
FLOPS = "a number of FLOPs between 1 and 9223372036854775807, such as 81100000 or the text 250M"
MICROSECONDS = "a number of microseconds between 0 (none) and 9223372036854775807"
PRIORITY = "a whole number between 0 and 4294967295"


def double(value: float) -> InferParameter:
    return InferParameter(double_param=value)


def whole(value: int) -> InferParameter:
    return InferParameter(int64_param=value)


def unsigned(value: int) -> InferParameter:
    return InferParameter(uint64_param=value)


def text(value: str) -> InferParameter:
    return InferParameter(string_param=value)


@pytest.mark.parametrize(
    ("name", "parameter", "expected"),
    [
        ("confidence_threshold", double(0.75), 0.75),
        ("confidence_threshold", whole(1), 1.0),
        ("confidence_threshold", unsigned(0), 0.0),
        ("confidence_threshold", text("0.75"), 0.75),
        ("confidence_threshold", text(" 1e-1 "), 0.1),
        ("confidence_threshold", text("0.9,0.8"), (0.9, 0.8)),
        ("confidence_threshold", text("0.9, 0, 1"), (0.9, 0.0, 1.0)),
        ("max_flops", whole(81_100_000), 81_100_000),
        ("max_flops", unsigned(2**63 - 1), 2**63 - 1),
        ("max_flops", double(2.5e8), 250_000_000),
        ("max_flops", double(1.999), 1),
        ("max_flops", text("250M"), 250_000_000),
        ("max_flops", text("81100000"), 81_100_000),
        ("policy", text("fast"), "fast"),
        ("policy", text("Ü"), "Ü"),
        ("mode", text("cascade"), Mode.CASCADE),
        ("mode", text("ensemble"), Mode.ENSEMBLE),
        ("on_deadline", text("fail"), OnDeadline.FAIL),
        ("on_deadline", text("answer"), OnDeadline.ANSWER),
        ("priority", whole(3), 3),
        ("priority", unsigned(2**32 - 1), 2**32 - 1),
        ("priority", double(2.0), 2),
        ("priority", text("7"), 7),
    ],
)
def test_a_term_is_read_from_every_type_that_can_hold_it(
    name: str, parameter: InferParameter, expected: object
) -> None:
    terms, timeout_s = read_parameters({name: parameter})
    assert terms == Terms(**{name: expected})  # type: ignore[arg-type]
    assert type(getattr(terms, name)) is type(expected)
    assert timeout_s is None


@pytest.mark.parametrize(
    ("parameter", "seconds"),
    [
        (whole(1500), 0.0015),
        (unsigned(2_000_000), 2.0),
        (double(250.9), 250e-6),
        (text("1000"), 0.001),
        (whole(0), None),
    ],
)
def test_a_timeout_is_in_microseconds_and_zero_is_none(parameter: InferParameter, seconds: float | None) -> None:
    assert read_parameters({"timeout": parameter}) == (Terms(), seconds)


@pytest.mark.parametrize(
    ("name", "parameter", "message"),
    [
        ("confidence_threshold", double(math.nan), "confidence_threshold: got nan; must be between 0 and 1"),
        ("confidence_threshold", double(1.01), "confidence_threshold: got 1.01; must be between 0 and 1"),
        ("confidence_threshold", whole(-1), "confidence_threshold: got -1.0; must be between 0 and 1"),
        ("confidence_threshold", text("0.9,1.2"), "confidence_threshold: got 1.2; must be between 0 and 1"),
        ("confidence_threshold", text("inf"), "confidence_threshold: got inf; must be between 0 and 1"),
        ("confidence_threshold", text("high"), f"confidence_threshold: got 'high'; must be {THRESHOLDS}"),
        ("confidence_threshold", text(""), f"confidence_threshold: got ''; must be {THRESHOLDS}"),
        ("confidence_threshold", text("0.9,"), f"confidence_threshold: got '0.9,'; must be {THRESHOLDS}"),
        ("confidence_threshold", text("0.9_5"), f"confidence_threshold: got '0.9_5'; must be {THRESHOLDS}"),
        ("confidence_threshold", text("0.\u0969"), f"confidence_threshold: got '0.\u0969'; must be {THRESHOLDS}"),
        (
            "confidence_threshold",
            InferParameter(bool_param=True),
            "confidence_threshold: got the bool True; must be a number or a text",
        ),
        ("confidence_threshold", InferParameter(), "confidence_threshold: got no value; must be a number or a text"),
        ("max_flops", whole(0), f"max_flops: got 0; must be {FLOPS}"),
        ("max_flops", whole(-5), f"max_flops: got -5; must be {FLOPS}"),
        ("max_flops", unsigned(2**63), f"max_flops: got {2**63}; must be {FLOPS}"),
        ("max_flops", double(0.5), f"max_flops: got 0.5; must be {FLOPS}"),
        ("max_flops", double(2.0**63), f"max_flops: got 9.223372036854776e+18; must be {FLOPS}"),
        ("max_flops", double(math.inf), f"max_flops: got inf; must be {FLOPS}"),
        ("max_flops", double(math.nan), f"max_flops: got nan; must be {FLOPS}"),
        ("max_flops", text("lots"), f"max_flops: got 'lots'; must be {FLOPS}"),
        ("max_flops", text("0"), f"max_flops: got '0'; must be {FLOPS}"),
        ("max_flops", InferParameter(bool_param=False), "max_flops: got the bool False; must be a number or a text"),
        ("policy", whole(3), "policy: got 3; must be a text, the name of a policy"),
        ("policy", InferParameter(bool_param=True), "policy: got the bool True; must be a text"),
        ("mode", InferParameter(), "mode: got no value; must be a text"),
        ("on_deadline", InferParameter(bool_param=False), "on_deadline: got the bool False; must be a text"),
        ("mode", text("both"), "mode: got 'both'; must be 'cascade' or 'ensemble'"),
        ("mode", text("Cascade"), "mode: got 'Cascade'; must be 'cascade' or 'ensemble'"),
        ("mode", whole(1), "mode: got 1; must be 'cascade' or 'ensemble'"),
        ("on_deadline", text("wait"), "on_deadline: got 'wait'; must be 'fail' or 'answer'"),
        ("priority", whole(-1), f"priority: got -1; must be {PRIORITY}"),
        ("priority", unsigned(2**32), f"priority: got {2**32}; must be {PRIORITY}"),
        ("priority", double(1.5), f"priority: got 1.5; must be {PRIORITY}"),
        ("priority", text("first"), f"priority: got 'first'; must be {PRIORITY}"),
        ("timeout", whole(-1), f"timeout: got -1; must be {MICROSECONDS}"),
        ("timeout", text("1s"), f"timeout: got '1s'; must be {MICROSECONDS}"),
        ("timeout", text("9" * 30), f"timeout: got '{'9' * 30}'; must be {MICROSECONDS}"),
        ("timeout", double(math.inf), f"timeout: got inf; must be {MICROSECONDS}"),
        (
            "sequence_id",
            whole(5),
            "sequence_id: got a value; must be absent: a cascade keeps no state between requests",
        ),
        (
            "binary_data_output",
            InferParameter(bool_param=True),
            (
                "binary_data_output: got a value; must be absent: it belongs to the HTTP protocol, and gRPC's answers"
                " are always binary"
            ),
        ),
        ("headers", text("x"), "headers: got a value; must be absent: it is a server's own name for a call's metadata"),
        (
            "threshold",
            double(0.5),
            (
                "parameters: got 'threshold'; must be among confidence_threshold, max_flops, mode, on_deadline, policy,"
                " priority, timeout"
            ),
        ),
    ],
)
def test_a_parameter_is_refused_with_name_value_and_limit(name: str, parameter: InferParameter, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_parameters({name: parameter})
    assert str(caught.value) == message


def test_the_standard_servers_private_parameters_are_ignored() -> None:
    parameters = {"triton_enable_empty_final_response": InferParameter(bool_param=True), "triton_": InferParameter()}
    assert read_parameters(parameters) == (Terms(), None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("confidence_threshold", 0.1),
        ("confidence_threshold", (0.1, 1 / 3, 1.0)),
        ("max_flops", 2**62 + 1),
        ("policy", "front-03"),
        ("mode", Mode.ENSEMBLE),
        ("on_deadline", OnDeadline.ANSWER),
        ("priority", 9),
        ("confidence_threshold", np.float32(0.25)),
        ("max_flops", np.int64(250)),
    ],
)
def test_what_the_client_writes_the_server_reads(name: str, value: float | str | tuple[float, ...]) -> None:
    message = ModelInferRequest()
    write_parameter(message.parameters, name, value)
    terms, _ = read_parameters(message.parameters)
    assert getattr(terms, name) == value

"""The table of bad inputs: what a server gets, and the exact status and message that it answers."""
# Shapes: B rows, HWC image.

import gc
import random
import time
from collections.abc import Callable

import grpc
import numpy as np
import pytest
from fake_engine import CASCADE, FakeEngine, image_of
from served_cascade import ServedCascade

from cascade_serve.errors import MemberError, OverloadedError
from cascade_serve.rpc.remote import RemoteError
from cascade_serve.rpc.stubs.grpc_service_pb2 import ModelInferRequest
from cascade_serve.rpc.tensors import pack_bytes

Change = Callable[[ModelInferRequest], object]

INPUTS = "exactly one of 'images' and 'encoded'"
SHAPE = "shape [n, 4, 5, 3] with n 1 to 64"
FLOPS = "a number of FLOPs between 1 and 9223372036854775807, such as 81100000 or the text 250M"
OUTPUTS = "probabilities, label, confidence, exit_stage, exit_reason, flops"
PARAMETERS = "confidence_threshold, max_flops, mode, on_deadline, policy, priority, timeout"


def good_request() -> ModelInferRequest:
    message = ModelInferRequest(model_name=CASCADE, raw_input_contents=[image_of(0, 255).tobytes()])
    message.inputs.add(name="images", datatype="UINT8", shape=[1, 4, 5, 3])
    return message


def double(name: str, value: float) -> Change:
    return lambda message: setattr(message.parameters[name], "double_param", value)


def whole(name: str, value: int) -> Change:
    return lambda message: setattr(message.parameters[name], "int64_param", value)


def text(name: str, value: str) -> Change:
    return lambda message: setattr(message.parameters[name], "string_param", value)


def flag(name: str) -> Change:
    return lambda message: setattr(message.parameters[name], "bool_param", True)


def tensor(**fields: object) -> Change:
    def change(message: ModelInferRequest) -> None:
        for name, value in fields.items():
            if name == "shape":
                message.inputs[0].ClearField("shape")
                message.inputs[0].shape.extend(value)  # type: ignore[arg-type]
            else:
                setattr(message.inputs[0], name, value)

    return change


def raw(*contents: bytes) -> Change:
    def change(message: ModelInferRequest) -> None:
        message.ClearField("raw_input_contents")
        message.raw_input_contents.extend(contents)

    return change


def encoded(*files: bytes) -> Change:
    def change(message: ModelInferRequest) -> None:
        tensor(name="encoded", datatype="BYTES", shape=[len(files)])(message)
        raw(pack_bytes(files))(message)

    return change


def all_of(*changes: Change) -> Change:
    return lambda message: [change(message) for change in changes]


BAD_INPUTS: dict[str, tuple[Change, str, str]] = {
    # Names.
    "unknown cascade": (
        lambda message: setattr(message, "model_name", "birds"),
        "NOT_FOUND",
        "cascade 'birds' not found; known: pets",
    ),
    "no cascade": (
        lambda message: setattr(message, "model_name", ""),
        "NOT_FOUND",
        "cascade '' not found; known: pets",
    ),
    "a path": (
        lambda message: setattr(message, "model_name", "../../etc/passwd"),
        "NOT_FOUND",
        "cascade '../../etc/passwd' not found; known: pets",
    ),
    "unknown version": (
        lambda message: setattr(message, "model_version", "99"),
        "NOT_FOUND",
        "version of cascade 'pets' '99' not found; known: 3",
    ),
    "a member": (
        lambda message: setattr(message, "model_name", "pets.small"),
        "INVALID_ARGUMENT",
        "model_name: got 'pets.small'; must be 'pets', its cascade: a member is not served alone",
    ),
    "unknown member": (
        lambda message: setattr(message, "model_name", "pets.tiny"),
        "NOT_FOUND",
        "cascade 'pets.tiny' not found; known: pets",
    ),
    "unknown policy": (
        text("policy", "slow"),
        "NOT_FOUND",
        "policy 'slow' not found; known: accurate, default, fast",
    ),
    # Tensors.
    "no input": (
        lambda message: message.ClearField("inputs"),
        "INVALID_ARGUMENT",
        f"inputs: got 0 tensors []; must be {INPUTS}",
    ),
    "two inputs": (
        lambda message: message.inputs.add(name="encoded", datatype="BYTES", shape=[1]),
        "INVALID_ARGUMENT",
        f"inputs: got 2 tensors ['images', 'encoded']; must be {INPUTS}",
    ),
    "unknown input": (tensor(name="input_1"), "INVALID_ARGUMENT", f"inputs: got 'input_1'; must be {INPUTS}"),
    "floats": (tensor(datatype="FP32"), "INVALID_ARGUMENT", "images: got datatype 'FP32'; must be UINT8"),
    "no batch dimension": (
        tensor(shape=[4, 5, 3]),
        "INVALID_ARGUMENT",
        f"images: got shape [4, 5, 3]; must be {SHAPE}",
    ),
    "channels first": (
        tensor(shape=[1, 3, 4, 5]),
        "INVALID_ARGUMENT",
        f"images: got shape [1, 3, 4, 5]; must be {SHAPE}",
    ),
    "no images": (tensor(shape=[0, 4, 5, 3]), "INVALID_ARGUMENT", f"images: got shape [0, 4, 5, 3]; must be {SHAPE}"),
    "too many images": (
        tensor(shape=[65, 4, 5, 3]),
        "INVALID_ARGUMENT",
        f"images: got shape [65, 4, 5, 3]; must be {SHAPE}",
    ),
    "short contents": (
        raw(bytes(59)),
        "INVALID_ARGUMENT",
        "images: got 59 elements; must be 60 elements for shape [1, 4, 5, 3]",
    ),
    "no contents": (
        raw(),
        "INVALID_ARGUMENT",
        "images: got 0 elements; must be 60 elements for shape [1, 4, 5, 3]",
    ),
    "two entries": (
        raw(bytes(60), bytes(60)),
        "INVALID_ARGUMENT",
        "raw_input_contents: got 2 entries; must be 1 entry: one for each input",
    ),
    "shared memory": (
        lambda message: setattr(message.inputs[0].parameters["shared_memory_region"], "string_param", "x"),
        "INVALID_ARGUMENT",
        (
            "images.parameters: got 'shared_memory_region'; must be absent: shared memory is not served, so send or"
            " take the contents in the message"
        ),
    ),
    "not an image": (
        encoded(b"no image at all"),
        "INVALID_ARGUMENT",
        (
            "encoded[0]: got a file that can't be decoded (encoded image: got an unknown format that starts with"
            " 6e 6f 20 69 6d 61 67 65; must be JPEG or PNG); must be a JPEG or PNG image"
        ),
    ),
    "an empty file": (
        encoded(b""),
        "INVALID_ARGUMENT",
        (
            "encoded[0]: got a file that can't be decoded (encoded image: got 0 bytes; must be 1 to 16777216);"
            " must be a JPEG or PNG image"
        ),
    ),
    "encoded without lengths": (
        all_of(encoded(b"x"), raw(b"\x89PNG\r\n")),
        "INVALID_ARGUMENT",
        (
            "encoded[0]: got an element that ends past the contents' 6 bytes; must be its length in four bytes"
            " (little-endian), then so many bytes"
        ),
    ),
    "encoded with two dimensions": (
        all_of(encoded(b"x"), tensor(shape=[1, 1])),
        "INVALID_ARGUMENT",
        "encoded: got shape [1, 1]; must be shape [n] with n 1 to 64",
    ),
    # Outputs.
    "unknown output": (
        lambda message: message.outputs.add(name="logits"),
        "INVALID_ARGUMENT",
        f"outputs: got 'logits'; must be among {OUTPUTS}",
    ),
    "an output twice": (
        lambda message: [message.outputs.add(name="label") for _ in range(2)],
        "INVALID_ARGUMENT",
        "outputs: got 'label' twice; must be each once",
    ),
    "classification": (
        lambda message: setattr(message.outputs.add(name="label").parameters["classification"], "int64_param", 3),
        "INVALID_ARGUMENT",
        (
            "label.parameters: got 'classification'; must be absent: ask for the output 'probabilities' and sort it,"
            " or for 'label'"
        ),
    ),
    # Parameters.
    "unknown parameter": (
        double("treshold", 0.5),
        "INVALID_ARGUMENT",
        f"parameters: got 'treshold'; must be among {PARAMETERS}",
    ),
    "a bool": (
        flag("max_flops"),
        "INVALID_ARGUMENT",
        "max_flops: got the bool True; must be a number or a text",
    ),
    "threshold above one": (
        double("confidence_threshold", 1.5),
        "INVALID_ARGUMENT",
        "confidence_threshold: got 1.5; must be between 0 and 1",
    ),
    "threshold not a number": (
        double("confidence_threshold", float("nan")),
        "INVALID_ARGUMENT",
        "confidence_threshold: got nan; must be between 0 and 1",
    ),
    "too many thresholds": (
        text("confidence_threshold", "0.9,0.8,0.7"),
        "INVALID_ARGUMENT",
        (
            "confidence_threshold: got 3 thresholds; must be one number, or 2 for policy 'default': one a stage but the"
            " last"
        ),
    ),
    "cap under the first stage": (
        whole("max_flops", 999_999),
        "INVALID_ARGUMENT",
        "max_flops: got 999999; must be at least 1000000, the cost of the first stage of policy 'default'",
    ),
    "cap in words": (text("max_flops", "few"), "INVALID_ARGUMENT", f"max_flops: got 'few'; must be {FLOPS}"),
    "unknown mode": (text("mode", "fast"), "INVALID_ARGUMENT", "mode: got 'fast'; must be 'cascade' or 'ensemble'"),
    "a sequence": (
        whole("sequence_id", 1),
        "INVALID_ARGUMENT",
        "sequence_id: got a value; must be absent: a cascade keeps no state between requests",
    ),
    "negative timeout": (
        whole("timeout", -1),
        "INVALID_ARGUMENT",
        "timeout: got -1; must be a number of microseconds between 0 (none) and 9223372036854775807",
    ),
    # Too long for gRPC.
    "a long message": (
        raw(bytes((1 << 20) + 1)),
        "RESOURCE_EXHAUSTED",
        "SERVER: Received message larger than max (1048610 vs. 1048576)",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_a_bad_input_gets_its_status_and_message(served: ServedCascade, case: str) -> None:
    change, code, message = BAD_INPUTS[case]
    request = good_request()
    change(request)
    with pytest.raises(RemoteError) as caught:
        served.client.raw_infer(request.SerializeToString())
    assert (caught.value.code, caught.value.message) == (code, message)


def test_the_request_that_the_table_spoils_is_good(served: ServedCascade) -> None:
    served.client.raw_infer(good_request().SerializeToString())


def test_a_request_that_comes_late_is_refused(served: ServedCascade) -> None:
    request = good_request()
    whole("timeout", 1)(request)
    with pytest.raises(RemoteError, match=r"^DEADLINE_EXCEEDED: the deadline passed [0-9.]+ s before admission$"):
        served.client.raw_infer(request.SerializeToString())


def test_bytes_that_are_no_message_are_refused(served: ServedCascade) -> None:
    with pytest.raises(
        RemoteError, match=r"^INVALID_ARGUMENT: message: got 3 bytes; must be a protobuf message of the method's type$"
    ):
        served.client.raw_infer(b"\xff\xff\xff")


def test_a_failed_member_is_internal_with_its_message(served: ServedCascade, fake: FakeEngine) -> None:
    fake.failure = MemberError("member 'small': no finite prediction for row 0")
    with pytest.raises(RemoteError, match=r"^INTERNAL: member 'small': no finite prediction for row 0$"):
        served.client.raw_infer(good_request().SerializeToString())


def test_a_full_engine_is_exhausted(served: ServedCascade, fake: FakeEngine) -> None:
    fake.failure = OverloadedError("all 64 slots are taken")
    with pytest.raises(RemoteError, match=r"^RESOURCE_EXHAUSTED: all 64 slots are taken$"):
        served.client.raw_infer(good_request().SerializeToString())


def test_a_bug_is_internal_and_says_nothing(
    served: ServedCascade, fake: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    fake.failure = ZeroDivisionError("secret")
    with pytest.raises(RemoteError, match=r"^INTERNAL: internal error; the server's log has the details$"):
        served.client.raw_infer(good_request().SerializeToString())
    assert "secret" in caplog.text


def test_a_long_name_comes_back_cut(served: ServedCascade) -> None:
    request = good_request()
    request.model_name = "ü" * 50_000
    cut = r"^NOT_FOUND: cascade 'ü+\.\.\. \(\d+ characters\) \.\.\.ü+' not found; known: "
    with pytest.raises(RemoteError, match=cut):
        served.client.raw_infer(request.SerializeToString())


EXPECTED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL", "DEADLINE_EXCEEDED"}


def mutate(data: bytes, source: random.Random) -> bytes:
    mutated = bytearray(data)
    for _ in range(source.randint(1, 6)):
        position = source.randrange(len(mutated))
        match source.randrange(3):
            case 0:
                mutated[position] = source.randrange(256)
            case 1:
                del mutated[position]
            case _:
                mutated.insert(position, source.randrange(256))
    return bytes(mutated)


def outcome(served: ServedCascade, data: bytes) -> tuple[str, str]:
    try:
        served.client.raw_infer(data)
    except RemoteError as error:
        return error.code, error.message
    return "OK", ""


@pytest.mark.parametrize("seed", range(4))
def test_spoilt_messages_never_confuse_the_server(
    served: ServedCascade, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    source = random.Random(seed)
    request = good_request()
    for name, value in (("confidence_threshold", "0.9,0.8"), ("max_flops", "250M"), ("policy", "default")):
        request.parameters[name].string_param = value
    request.outputs.add(name="label")
    for _ in range(150):
        data = mutate(request.SerializeToString(), source)
        code, message = outcome(served, data)
        assert code in EXPECTED, (data, message)
        assert code != "INTERNAL", (data, message)
    assert "ModelInfer failed" not in caplog.text
    served.client.raw_infer(good_request().SerializeToString())


@pytest.mark.parametrize("seed", range(4))
def test_random_contents_never_confuse_the_server(served: ServedCascade, seed: int) -> None:
    source = np.random.default_rng(seed)
    for _ in range(60):
        request = good_request()
        all_of(
            encoded(*[source.bytes(int(source.integers(0, 40))) for _ in range(int(source.integers(1, 4)))]),
            raw(source.bytes(int(source.integers(0, 80)))),
        )(request)
        with pytest.raises(RemoteError) as caught:
            served.client.raw_infer(request.SerializeToString())
        assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT.name


def num_held() -> int:
    # Not isinstance: torch has objects that answer that by a warning.
    return sum(type(one) is ModelInferRequest for one in gc.get_objects())


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda message: setattr(message, "model_name", "birds"), "NOT_FOUND"),
        (whole("max_flop", 1), "INVALID_ARGUMENT"),
        (raw(bytes(1 << 19)), "INVALID_ARGUMENT"),
    ],
    ids=["not found", "refused", "refused on a thread"],
)
def test_no_refused_message_waits_for_the_garbage_collector(served: ServedCascade, change: Change, status: str) -> None:
    request = good_request()
    change(request)
    gc.collect()
    gc.disable()
    try:
        before = num_held()
        for _ in range(3):
            assert outcome(served, request.SerializeToString())[0] == status
        # The answer may be here before its call has ended there.
        end_s = time.monotonic() + 20
        while num_held() > before and time.monotonic() < end_s:
            time.sleep(0.01)
        assert num_held() <= before
    finally:
        gc.enable()

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from tritonclient.grpc import model_config_pb2 as triton_config_pb2
from tritonclient.grpc import service_pb2 as triton_service_pb2

from cascade_serve.rpc.stubs import grpc_service_pb2, model_config_pb2

ROOT = Path(__file__).parents[3]
PAIRS = [
    (grpc_service_pb2.DESCRIPTOR, triton_service_pb2.DESCRIPTOR),
    (model_config_pb2.DESCRIPTOR, triton_config_pb2.DESCRIPTOR),
]


def with_nested(message: Descriptor) -> list[Descriptor]:
    return [message, *(inner for nested in message.nested_types for inner in with_nested(nested))]


MESSAGES = [
    (ours, theirs.message_types_by_name[top.name].file.pool.FindMessageTypeByName(ours.full_name))
    for own, theirs in PAIRS
    for top in own.message_types_by_name.values()
    for ours in with_nested(top)
]


def field_shape(field: FieldDescriptor) -> tuple[object, ...]:
    oneof = None if field.containing_oneof is None else field.containing_oneof.name
    message = None if field.message_type is None else field.message_type.full_name
    enum = None if field.enum_type is None else field.enum_type.full_name
    return field.number, field.type, field.is_repeated, oneof, message, enum


def enum_values(enum: EnumDescriptor) -> dict[str, int]:
    return {value.name: value.number for value in enum.values}


@pytest.mark.parametrize(("ours", "theirs"), MESSAGES, ids=[ours.full_name for ours, _ in MESSAGES])
def test_every_field_is_the_standards(ours: Descriptor, theirs: Descriptor) -> None:
    for field in ours.fields:
        assert field_shape(field) == field_shape(theirs.fields_by_name[field.name]), field.full_name
    for enum in ours.enum_types:
        assert enum_values(enum) == enum_values(theirs.enum_types_by_name[enum.name])


def test_every_enum_is_the_standards() -> None:
    ours, theirs = model_config_pb2.DESCRIPTOR, triton_config_pb2.DESCRIPTOR
    for name, enum in ours.enum_types_by_name.items():
        assert enum_values(enum) == enum_values(theirs.enum_types_by_name[name])


def test_every_method_is_the_standards() -> None:
    (ours,) = grpc_service_pb2.DESCRIPTOR.services_by_name.values()
    theirs = triton_service_pb2.DESCRIPTOR.services_by_name[ours.name]
    assert ours.full_name == theirs.full_name
    for method in ours.methods:
        other = theirs.methods_by_name[method.name]
        assert method.input_type.full_name == other.input_type.full_name
        assert method.output_type.full_name == other.output_type.full_name
        assert (method.client_streaming, method.server_streaming) == (False, False)


def test_the_stubs_are_what_the_protos_give() -> None:
    check = subprocess.run(
        [sys.executable, "protos/generate.py", "--check"], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
    )
    assert check.returncode == 0, check.stdout + check.stderr


def messages() -> list[Message]:
    request = grpc_service_pb2.ModelInferRequest(model_name="pets", raw_input_contents=[b"\0\1"])
    request.parameters["max_flops"].int64_param = 3
    request.inputs.add(name="images").contents.uint_contents.append(3)
    config = model_config_pb2.ModelConfig(name="pets")
    config.ensemble_scheduling.step.add(model_name="pets.small").input_map["a"] = "b"
    step = config.ensemble_scheduling.step[0]
    return [request, request.inputs[0], request.inputs[0].contents, request.parameters["max_flops"], config, step]


@pytest.mark.parametrize("message", messages(), ids=lambda message: message.DESCRIPTOR.full_name)
def test_messages_can_be_pickled_nested_ones_too(message: Message) -> None:
    copy = pickle.loads(pickle.dumps(message))
    assert type(copy) is type(message)
    assert copy == message


@pytest.mark.parametrize(
    "imports",
    [
        "import tritonclient.grpc, cascade_serve.rpc.server",
        "import cascade_serve.rpc.server, tritonclient.grpc",
    ],
)
def test_tritonclient_and_our_stubs_share_a_process_in_either_order(imports: str) -> None:
    check = subprocess.run([sys.executable, "-c", imports], capture_output=True, encoding="utf-8", check=False)
    assert check.returncode == 0, check.stderr


def test_importing_the_package_does_not_import_grpc() -> None:
    script = "import sys, cascade_serve; assert 'grpc' not in sys.modules; print(cascade_serve.Client.__name__)"
    check = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=False)
    assert check.returncode == 0, check.stderr

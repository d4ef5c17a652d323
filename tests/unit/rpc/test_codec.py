"""Which requests the loop reads itself."""

from types import SimpleNamespace
from typing import cast

import pytest

from cascade_serve.rpc.codec import is_light
from cascade_serve.rpc.stubs.grpc_service_pb2 import ModelInferRequest


def make_request(rows: int, *, name: str = "images") -> ModelInferRequest:
    message = ModelInferRequest(model_name="pets", raw_input_contents=[bytes(rows * 60)])
    message.inputs.add(name=name, datatype="UINT8", shape=[rows, 4, 5, 3])
    return message


def test_a_few_raw_images_are_light_and_many_or_encoded_ones_are_not() -> None:
    assert is_light(make_request(100))
    assert not is_light(make_request(10_000))
    assert not is_light(make_request(1, name="encoded"))


def test_a_message_that_is_larger_than_its_tensor_is_not_light() -> None:
    message = make_request(1)
    message.raw_input_contents[0] = bytes(1 << 20)
    assert not is_light(message)


@pytest.mark.parametrize("shape", [[1 << 20, 4, 5, 3], [2] * 1000])
def test_a_large_tensor_is_told_by_its_shape_before_protobuf_counts_bytes(shape: list[int]) -> None:
    def count() -> int:
        raise AssertionError("it would serialise the message")

    tensor = SimpleNamespace(name="images", shape=shape)
    message = SimpleNamespace(inputs=[tensor], raw_input_contents=[b""], ByteSize=count)
    assert not is_light(cast("ModelInferRequest", message))

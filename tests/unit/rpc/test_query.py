"""Answers that do not follow the protocol: whatever comes, the client says so."""

import pytest

from cascade_serve import Client
from cascade_serve.rpc.query import decode_prediction
from cascade_serve.rpc.remote import RemoteError
from cascade_serve.rpc.stubs.grpc_service_pb2 import ModelInferResponse


def test_bytes_that_are_no_message_are_told() -> None:
    with pytest.raises(RemoteError, match=r"^UNKNOWN: the answer is no message of the protocol"):
        Client.decode(b"\xff\xff\xff")


@pytest.mark.parametrize(
    ("name", "datatype", "shape", "raw"),
    [
        ("exit_reason", "BYTES", [], b""),
        ("exit_reason", "BYTES", [1], b"\4\0\0\0LATE"),
        ("label", "INT64", [2], bytes(8)),
        ("label", "FP8", [1], bytes(8)),
        ("logits", "FP32", [1], bytes(4)),
        ("label", "INT64", [1], None),
    ],
)
def test_an_answer_of_another_kind_is_told(name: str, datatype: str, shape: list[int], raw: bytes | None) -> None:
    message = ModelInferResponse(model_name="pets", raw_output_contents=[] if raw is None else [raw])
    message.outputs.add(name=name, datatype=datatype, shape=shape)
    with pytest.raises(RemoteError, match=r"^UNKNOWN: the answer does not follow the protocol: "):
        decode_prediction(message)

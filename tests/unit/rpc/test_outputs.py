import numpy as np
import pytest

from cascade_serve.core.request import ExitReason, Reply
from cascade_serve.errors import InvalidRequestError
from cascade_serve.rpc.codec import encode_reply
from cascade_serve.rpc.outputs import Wanted, read_outputs
from cascade_serve.rpc.query import decode_prediction
from cascade_serve.rpc.stubs.grpc_service_pb2 import ModelInferRequest


def outputs(*names: str) -> ModelInferRequest:
    message = ModelInferRequest()
    for name in names:
        message.outputs.add(name=name)
    return message


def test_outputs_are_all_unless_some_are_named() -> None:
    every = ("probabilities", "label", "confidence", "exit_stage", "exit_reason", "flops")
    assert read_outputs(outputs()).names == every
    assert read_outputs(outputs("flops", "label")).names == ("flops", "label")


def test_unknown_and_doubled_outputs_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"^outputs: got 'logits'; must be among probabilities, label, "):
        read_outputs(outputs("logits"))
    with pytest.raises(InvalidRequestError, match=r"^outputs: got 'label' twice; must be each once$"):
        read_outputs(outputs("label", "label"))


def test_classification_is_refused_with_what_to_do_instead() -> None:
    message = outputs("probabilities")
    message.outputs[0].parameters["classification"].int64_param = 3
    limit = r"must be absent: ask for the output 'probabilities' and sort it, or for 'label'"
    with pytest.raises(InvalidRequestError, match=limit):
        read_outputs(message)


def make_reply() -> Reply:
    return Reply(
        probabilities_BK=np.array([[0.25, 0.75], [0.5, 0.5]], dtype=np.float32),
        label_B=np.array([1, 0]),
        confidence_B=np.array([0.75, 0.5], dtype=np.float32),
        exit_stage_B=np.array([0, 2]),
        exit_reason_B=np.array([ExitReason.CONFIDENT, ExitReason.DEADLINE], dtype=np.uint8),
        flops_B=np.array([10, 2**40]),
        policy="fäst",
        certified=True,
    )


def test_a_reply_is_written_in_the_standards_encoding() -> None:
    response = encode_reply(make_reply(), Wanted(("exit_stage", "probabilities", "exit_reason")), "pets", 3, "id-1")
    assert (response.model_name, response.model_version, response.id) == ("pets", "3", "id-1")
    assert response.parameters["policy"].string_param == "fäst"
    assert response.parameters["certified"].bool_param is True
    described = [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in response.outputs]
    assert described == [
        ("exit_stage", "INT32", [2]),
        ("probabilities", "FP32", [2, 2]),
        ("exit_reason", "BYTES", [2]),
    ]
    assert response.raw_output_contents[0] == b"\0\0\0\0\x02\0\0\0"
    assert response.raw_output_contents[1] == np.array([0.25, 0.75, 0.5, 0.5], dtype="<f4").tobytes()
    assert response.raw_output_contents[2] == b"\x09\0\0\0CONFIDENT\x08\0\0\0DEADLINE"


def test_a_reply_comes_back_as_it_was() -> None:
    reply = make_reply()
    prediction = decode_prediction(encode_reply(reply, read_outputs(outputs()), "pets", 3, ""))
    assert prediction.probabilities is not None
    assert prediction.label is not None
    assert prediction.flops is not None
    np.testing.assert_array_equal(prediction.probabilities, reply.probabilities_BK)
    np.testing.assert_array_equal(prediction.label, reply.label_B)
    np.testing.assert_array_equal(prediction.flops, reply.flops_B)
    assert prediction.exit_reason == (ExitReason.CONFIDENT, ExitReason.DEADLINE)
    assert (prediction.policy, prediction.certified, prediction.model_version) == ("fäst", True, "3")

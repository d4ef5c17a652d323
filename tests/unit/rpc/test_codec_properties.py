"""Whatever one half of the codec writes, the other reads back; whatever else comes in is refused in words."""
# Shapes: B rows, K classes, HWC image.

from contextlib import suppress

import numpy as np
import pytest
from fake_engine import make_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cascade_serve.core.plan import Task
from cascade_serve.core.request import ExitReason, Mode, OnDeadline, Reply, Terms
from cascade_serve.errors import InvalidRequestError, NotFoundError
from cascade_serve.rpc.codec import Query, decode_request, encode_reply
from cascade_serve.rpc.outputs import OUTPUTS, Wanted
from cascade_serve.rpc.query import decode_prediction, encode_query
from cascade_serve.rpc.shared_memory import RegionSpec, RegionTable
from cascade_serve.rpc.stubs.grpc_service_pb2 import InferParameter, ModelInferRequest
from model_zoo.preprocess import DecodeLimits

PLAN = make_plan({})
assert PLAN.task == Task(height=4, width=5, channels=3, classes=PLAN.task.classes)

images = hnp.arrays(np.uint8, st.tuples(st.integers(1, 6), st.just(4), st.just(5), st.just(3)))
thresholds = st.one_of(
    st.none(),
    st.floats(0, 1),
    st.lists(st.floats(0, 1), min_size=2, max_size=5).map(tuple),
)
terms = st.builds(
    Terms,
    policy=st.text(),
    mode=st.sampled_from(Mode),
    confidence_threshold=thresholds,
    max_flops=st.one_of(st.none(), st.integers(1, 2**63 - 1)),
    on_deadline=st.sampled_from(OnDeadline),
    priority=st.integers(0, 2**32 - 1),
)
output_names = st.lists(st.sampled_from(sorted(OUTPUTS)), unique=True)


def decode(message: ModelInferRequest, regions: RegionTable | None = None) -> Query:
    return decode_request(
        message,
        PLAN,
        max_rows=8,
        limits=DecodeLimits(),
        max_request_pixels=10**9,
        deadline_s=None,
        is_wanted=lambda: True,
        regions=regions,
    )


@given(images, terms, output_names)
def test_a_query_is_read_as_it_was_written(images_BHWC: np.ndarray, terms: Terms, outputs: list[str]) -> None:
    message = encode_query(
        images_BHWC,
        model="pets",
        outputs=outputs,
        confidence_threshold=terms.confidence_threshold,
        max_flops=terms.max_flops,
        policy=terms.policy,
        mode=terms.mode,
        on_deadline=terms.on_deadline,
        priority=terms.priority,
    )
    query = decode(ModelInferRequest.FromString(message.SerializeToString()))
    assert query.request.terms == terms
    np.testing.assert_array_equal(query.request.images_BHWC, images_BHWC)
    assert query.outputs.names == (tuple(outputs) or tuple(OUTPUTS))


@st.composite
def replies(draw: st.DrawFn) -> Reply:
    rows, classes = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    shape = (rows,)
    return Reply(
        probabilities_BK=draw(hnp.arrays(np.float32, (rows, classes))),
        label_B=draw(hnp.arrays(np.int64, shape)),
        confidence_B=draw(hnp.arrays(np.float32, shape)),
        exit_stage_B=draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 2**31 - 1))),
        exit_reason_B=draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([int(one) for one in ExitReason]))),
        flops_B=draw(hnp.arrays(np.int64, shape)),
        policy=draw(st.text()),
        certified=draw(st.booleans()),
    )


@given(replies(), output_names.filter(bool))
def test_an_answer_is_read_as_it_was_written(reply: Reply, outputs: list[str]) -> None:
    prediction = decode_prediction(encode_reply(reply, Wanted(tuple(outputs)), "pets", 3, "id"))
    expected = {
        "probabilities": reply.probabilities_BK,
        "label": reply.label_B,
        "confidence": reply.confidence_B,
        "exit_stage": reply.exit_stage_B,
        "exit_reason": reply.exit_reason_B,
        "flops": reply.flops_B,
    }
    for name, array in expected.items():
        got = getattr(prediction, name)
        if name in outputs:
            np.testing.assert_array_equal(got, array)
        else:
            assert got is None
    assert (prediction.policy, prediction.certified) == (reply.policy, reply.certified)


parameters = st.one_of(
    st.builds(lambda value: InferParameter(bool_param=value), st.booleans()),
    st.builds(lambda value: InferParameter(int64_param=value), st.integers(-(2**63), 2**63 - 1)),
    st.builds(lambda value: InferParameter(uint64_param=value), st.integers(0, 2**64 - 1)),
    st.builds(lambda value: InferParameter(double_param=value), st.floats()),
    st.builds(lambda value: InferParameter(string_param=value), st.text()),
    st.builds(lambda value: InferParameter(string_param=value), st.from_regex(r"[0-9.,eKMGT_+-]{1,12}")),
    st.just(InferParameter()),
)
NAMES = [
    "confidence_threshold",
    "max_flops",
    "policy",
    "mode",
    "on_deadline",
    "priority",
    "timeout",
    "triton_x",
    "else",
]


@settings(max_examples=300)
@given(
    st.dictionaries(st.sampled_from(NAMES), parameters, max_size=3),
    st.sampled_from(["images", "encoded"]),
    st.sampled_from(["UINT8", "BYTES"]),
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 6), max_size=5),
    st.lists(st.binary(max_size=70), max_size=2),
)
def test_whatever_comes_is_read_or_refused_in_words(
    named: dict[str, InferParameter], tensor: str, datatype: str, shape: list[int], raw: list[bytes]
) -> None:
    message = ModelInferRequest(raw_input_contents=raw)
    message.inputs.add(name=tensor, datatype=datatype, shape=shape)
    for name, parameter in named.items():
        message.parameters[name].CopyFrom(parameter)
    # Any other error than a refusal, and this test fails with it.
    with suppress(InvalidRequestError):
        assert decode(message).request.images_BHWC.shape[1:] == PLAN.task.image_shape


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> RegionTable:
    folder = tmp_path_factory.mktemp("shm")
    (folder / "box").write_bytes(bytes(200))
    table = RegionTable(max_input_bytes=150, folder=folder)
    table.register(RegionSpec(name="in", key="box", offset=20, byte_size=170))
    return table


SPAN_NAMES = ["shared_memory_region", "shared_memory_byte_size", "shared_memory_offset", "else"]
span_parameters = st.one_of(
    parameters,
    st.just(InferParameter(string_param="in")),
    st.builds(lambda value: InferParameter(int64_param=value), st.sampled_from([0, 8, 60, 120, 170])),
)
span_dictionaries = st.dictionaries(st.sampled_from(SPAN_NAMES), span_parameters, max_size=4)


@settings(max_examples=200)
@given(span_dictionaries, span_dictionaries, st.integers(1, 3), st.booleans(), st.sampled_from(["images", "encoded"]))
def test_whatever_place_is_named_is_read_or_refused_in_words(  # noqa: PLR0917 - given fills them in
    regions: RegionTable,
    read: dict[str, InferParameter],
    written: dict[str, InferParameter],
    rows: int,
    serves: bool,
    tensor: str,
) -> None:
    message = ModelInferRequest(outputs=[ModelInferRequest.InferRequestedOutputTensor(name="label")])
    is_raw = tensor == "images"
    message.inputs.add(
        name=tensor, datatype="UINT8" if is_raw else "BYTES", shape=[rows, 4, 5, 3] if is_raw else [rows]
    )
    for target, named in ((message.inputs[0], read), (message.outputs[0], written)):
        for name, parameter in named.items():
            target.parameters[name].CopyFrom(parameter)
    with suppress(InvalidRequestError, NotFoundError):
        query = decode(message, regions if serves else None)
        assert query.request.images_BHWC.shape == (rows, 4, 5, 3)
        assert all(span.byte_size >= 8 * rows for span in query.outputs.spans.values())


@pytest.mark.parametrize("flops", [2**53 + 1, 2**63 - 1])
def test_large_caps_lose_nothing(flops: int) -> None:
    image_HWC = np.zeros((4, 5, 3), dtype=np.uint8)
    assert decode(encode_query(image_HWC, model="pets", max_flops=flops)).request.terms.max_flops == flops

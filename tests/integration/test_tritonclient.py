"""The standard's best-known client, sync and asyncio, against our server, in the process where our own client lives."""
# Shapes: B rows, HWC image.

import asyncio
import io
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from fake_engine import CASCADE, MEMBERS, FakeEngine, image_of
from PIL import Image
from served_cascade import ServedCascade
from tritonclient.utils import InferenceServerException

IMAGES_BHWC = np.stack([image_of(0, 255), image_of(1, 130), image_of(2, 10)])
OUTPUTS = ("probabilities", "label", "confidence", "exit_stage", "exit_reason", "flops")


@pytest.fixture
def client(served: ServedCascade) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.address) as client:
        yield client


def raw_input() -> triton.InferInput:
    tensor = triton.InferInput("images", list(IMAGES_BHWC.shape), "UINT8")
    tensor.set_data_from_numpy(IMAGES_BHWC)
    return tensor


def encoded_input(*files: bytes) -> triton.InferInput:
    tensor = triton.InferInput("encoded", [len(files)], "BYTES")
    tensor.set_data_from_numpy(np.array(files, dtype=np.object_))
    return tensor


def png(image_HWC: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, "PNG")
    return buffer.getvalue()


def test_metadata_of_server_cascade_and_member(client: triton.InferenceServerClient) -> None:
    server = client.get_server_metadata(as_json=True)
    assert server["name"] == "cascade_serve"
    assert "statistics" in server["extensions"]
    cascade = client.get_model_metadata(CASCADE, as_json=True)
    assert (cascade["name"], cascade["versions"], cascade["platform"]) == (CASCADE, ["3"], "ensemble")
    assert cascade["inputs"] == [
        {"name": "images", "datatype": "UINT8", "shape": ["-1", "4", "5", "3"]},
        {"name": "encoded", "datatype": "BYTES", "shape": ["-1"]},
    ]
    assert {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in cascade["outputs"]} == {
        "probabilities": ("FP32", ["-1", "3"]),
        "label": ("INT64", ["-1"]),
        "confidence": ("FP32", ["-1"]),
        "exit_stage": ("INT32", ["-1"]),
        "exit_reason": ("BYTES", ["-1"]),
        "flops": ("INT64", ["-1"]),
    }
    member = client.get_model_metadata(f"{CASCADE}.medium", as_json=True)
    assert (member["name"], member["versions"]) == (f"{CASCADE}.medium", ["3"])
    assert member["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": ["-1", "3"]}]


def test_config_of_cascade_and_members(client: triton.InferenceServerClient) -> None:
    config = client.get_model_config(CASCADE, as_json=True)["config"]
    assert (config["platform"], config["max_batch_size"]) == ("ensemble", 64)
    assert [one["name"] for one in config["input"]] == ["images", "encoded"]
    assert config["input"][0]["dims"] == ["4", "5", "3"]
    assert all(one["optional"] for one in config["input"])
    assert [one["name"] for one in config["output"]] == list(OUTPUTS)
    steps = config["ensemble_scheduling"]["step"]
    assert [step["model_name"] for step in steps] == [f"{CASCADE}.{member}" for member in MEMBERS]
    assert all(step["input_map"] == {"images": "images"} for step in steps)
    assert all(set(step["output_map"].values()) <= set(OUTPUTS) for step in steps)
    # As the load generator does: it asks for each step's configuration.
    for step in steps:
        member = client.get_model_config(step["model_name"], as_json=True)["config"]
        assert member["max_batch_size"] == 8
        assert [one["name"] for one in member["input"]] == list(step["input_map"])
        assert [one["name"] for one in member["output"]] == list(step["output_map"])
        assert member["dynamic_batching"]["preferred_batch_size"] == [1, 2, 4, 8]


def test_config_tells_policies_as_json(client: triton.InferenceServerClient) -> None:
    parameters = client.get_model_config(CASCADE).config.parameters
    assert parameters["classes"].string_value == '["cat", "dog", "fjällräv"]'
    assert parameters["confidence"].string_value == '"max_prob"'
    assert '"threshold": 0.9' in parameters["policies"].string_value


def test_liveness_index_and_statistics(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(CASCADE)
    assert client.is_model_ready(CASCADE, "3")
    assert not client.is_model_ready(CASCADE, "4")
    assert client.is_model_ready(f"{CASCADE}.small")
    assert not client.is_model_ready("birds")
    index = client.get_model_repository_index(as_json=True)
    assert index["models"] == [{"name": CASCADE, "version": "3", "state": "READY"}]
    client.infer(CASCADE, [raw_input()])
    (cascade,) = client.get_inference_statistics(CASCADE).model_stats
    assert cascade.inference_stats.success.count >= 1
    assert cascade.inference_stats.success.ns > 0
    assert cascade.last_inference > 1.6e12
    (member,) = client.get_inference_statistics(f"{CASCADE}.small").model_stats
    assert member.inference_count >= 3
    assert sum(one.batch_size * one.compute_infer.count for one in member.batch_stats) == member.inference_count
    names = {one.name for one in client.get_inference_statistics().model_stats}
    assert names == {CASCADE, *(f"{CASCADE}.{name}" for name in MEMBERS)}


def test_raw_images_get_every_output(client: triton.InferenceServerClient) -> None:
    result = client.infer(CASCADE, [raw_input()], request_id="request-7")
    assert result.as_numpy("label").tolist() == [0, 1, 2]
    assert result.as_numpy("probabilities").shape == (3, 3)
    assert result.as_numpy("confidence").dtype == np.float32
    assert result.as_numpy("exit_stage").tolist() == [0, 1, 2]
    assert result.as_numpy("exit_stage").dtype == np.int32
    assert result.as_numpy("exit_reason").tolist() == [b"CONFIDENT", b"CONFIDENT", b"LAST_STAGE"]
    assert result.as_numpy("flops").tolist() == [1_000_000, 5_000_000, 21_000_000]
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("request-7", CASCADE, "3")
    assert response.parameters["policy"].string_param == "default"
    assert response.parameters["certified"].bool_param is True


def test_encoded_images_and_chosen_outputs(client: triton.InferenceServerClient) -> None:
    wanted = [triton.InferRequestedOutput(name) for name in ("flops", "label")]
    result = client.infer(CASCADE, [encoded_input(*map(png, IMAGES_BHWC))], outputs=wanted)
    assert [output.name for output in result.get_response().outputs] == ["flops", "label"]
    assert result.as_numpy("label").tolist() == [0, 1, 2]
    assert result.as_numpy("confidence") is None


@pytest.mark.parametrize(
    ("parameters", "stages"),
    [
        ({"confidence_threshold": 0.0}, [0, 0, 0]),
        ({"confidence_threshold": 0.97}, [1, 2, 2]),
        ({"confidence_threshold": 1}, [2, 2, 2]),
        ({"confidence_threshold": "0.99,0.5"}, [1, 1, 2]),
        ({"max_flops": 5_000_000}, [0, 1, 1]),
        ({"max_flops": 5e6}, [0, 1, 1]),
        ({"max_flops": "5M"}, [0, 1, 1]),
        ({"policy": "fast", "confidence_threshold": 0.99}, [1, 1, 1]),
        ({"mode": "ensemble"}, [2, 2, 2]),
    ],
)
def test_parameters_as_double_int_and_text(
    client: triton.InferenceServerClient, parameters: dict[str, str | float], stages: list[int]
) -> None:
    result = client.infer(CASCADE, [raw_input()], parameters=parameters)
    assert result.as_numpy("exit_stage").tolist() == stages


def test_timeout_and_priority_have_their_standard_meaning(
    client: triton.InferenceServerClient, fake: FakeEngine
) -> None:
    fake.hold()
    with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
        client.infer(CASCADE, [raw_input()], timeout=20_000, priority=3)
    fake.release()
    client.infer(CASCADE, [raw_input()], timeout=20_000_000, priority=1)


def wrong_shape() -> triton.InferInput:
    tensor = triton.InferInput("images", [3, 5, 4, 3], "UINT8")
    tensor.set_data_from_numpy(IMAGES_BHWC.reshape(3, 5, 4, 3))
    return tensor


def wrong_type() -> triton.InferInput:
    tensor = triton.InferInput("images", list(IMAGES_BHWC.shape), "FP32")
    tensor.set_data_from_numpy(IMAGES_BHWC.astype(np.float32))
    return tensor


def wrong_name() -> triton.InferInput:
    tensor = raw_input()
    tensor._get_tensor().name = "input__0"
    return tensor


MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"inputs": [wrong_shape()]}, "INVALID_ARGUMENT", "images: got shape [3, 5, 4, 3]; must be shape [n, 4, 5, 3]"),
    ({"inputs": [wrong_type()]}, "INVALID_ARGUMENT", "images: got datatype 'FP32'; must be UINT8"),
    ({"inputs": [wrong_name()]}, "INVALID_ARGUMENT", "inputs: got 'input__0'; must be exactly one of"),
    ({"inputs": [raw_input(), encoded_input(b"x")]}, "INVALID_ARGUMENT", "inputs: got 2 tensors"),
    ({"inputs": [encoded_input(b"GIF89a")]}, "INVALID_ARGUMENT", "encoded[0]: got a file that can't be decoded"),
    ({"model_name": "birds"}, "NOT_FOUND", "cascade 'birds' not found; known: pets"),
    ({"model_name": "pets.small"}, "INVALID_ARGUMENT", "model_name: got 'pets.small'; must be 'pets', its cascade"),
    ({"model_version": "9"}, "NOT_FOUND", "'9' not found; known: 3"),
    ({"outputs": [triton.InferRequestedOutput("logits")]}, "INVALID_ARGUMENT", "outputs: got 'logits'; must be among"),
    (
        {"outputs": [triton.InferRequestedOutput("label", class_count=2)]},
        "INVALID_ARGUMENT",
        "label.parameters: got 'classification'; must be absent",
    ),
    ({"parameters": {"confidence_threshold": True}}, "INVALID_ARGUMENT", "confidence_threshold: got the bool True"),
    ({"parameters": {"max_flops": 10}}, "INVALID_ARGUMENT", "max_flops: got 10; must be at least 1000000"),
    ({"sequence_id": 4, "sequence_start": True}, "INVALID_ARGUMENT", "must be absent: a cascade keeps no state"),
]


@pytest.mark.parametrize(("mistake", "status", "message"), MISTAKES)
def test_mistakes_get_a_status_and_a_message(
    client: triton.InferenceServerClient, mistake: dict[str, Any], status: str, message: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(**{"model_name": CASCADE, "inputs": [raw_input()], **mistake})
    assert caught.value.status() == f"StatusCode.{status}"
    assert message in caught.value.message()


def test_an_oversized_message_is_refused(client: triton.InferenceServerClient) -> None:
    tensor = triton.InferInput("images", [20_000, 4, 5, 3], "UINT8")
    tensor.set_data_from_numpy(np.zeros((20_000, 4, 5, 3), dtype=np.uint8))
    with pytest.raises(InferenceServerException, match=r"RESOURCE_EXHAUSTED.*larger than max"):
        client.infer(CASCADE, [tensor])


def test_an_asynchronous_request_can_be_cancelled(client: triton.InferenceServerClient, fake: FakeEngine) -> None:
    fake.hold()
    outcome: list[object] = []
    context = client.async_infer(CASCADE, [raw_input()], callback=lambda result, error: outcome.append(error))
    fake.wait_for_tickets(1)
    context.cancel()
    fake.wait_for_tickets(0)
    assert fake.num_cancelled == 1


def test_both_clients_call_in_turn(client: triton.InferenceServerClient, served: ServedCascade) -> None:
    for _ in range(3):
        theirs = client.infer(CASCADE, [raw_input()])
        ours = served.client.infer(IMAGES_BHWC, model=CASCADE)
        np.testing.assert_array_equal(theirs.as_numpy("probabilities"), ours.probabilities)


def run_aio(served: ServedCascade, calls: Callable[[Any], Awaitable[None]]) -> None:
    async def main() -> None:
        async with triton_aio.InferenceServerClient(served.address) as client:
            await calls(client)

    asyncio.run(main())


def test_the_asyncio_client_does_the_same(served: ServedCascade) -> None:
    async def calls(client: Any) -> None:
        assert await client.is_server_live()
        assert await client.is_model_ready(CASCADE)
        assert (await client.get_model_metadata(CASCADE)).platform == "ensemble"
        assert (await client.get_model_config(f"{CASCADE}.large")).config.max_batch_size == 8
        assert (await client.get_inference_statistics(CASCADE)).model_stats[0].name == CASCADE
        results = await asyncio.gather(
            *(
                client.infer(CASCADE, [raw_input()], parameters={"policy": policy})
                for policy in ("fast", "accurate") * 4
            )
        )
        policies = [result.get_response().parameters["policy"].string_param for result in results]
        assert policies == ["fast", "accurate"] * 4
        result = await client.infer(CASCADE, [encoded_input(*map(png, IMAGES_BHWC))])
        assert result.as_numpy("exit_reason").tolist() == [b"CONFIDENT", b"CONFIDENT", b"LAST_STAGE"]
        with pytest.raises(InferenceServerException, match=r"NOT_FOUND.*policy 'slow' not found"):
            await client.infer(CASCADE, [raw_input()], parameters={"policy": "slow"})

    run_aio(served, calls)


def test_what_is_not_served_says_so(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
        client.get_cuda_shared_memory_status()

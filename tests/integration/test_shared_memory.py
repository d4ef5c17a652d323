"""Tensors by shared memory, over a real connection: the standard's client and ours, and callers who do it wrong."""
# Shapes: B rows, HWC image.

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from fake_engine import CASCADE, FakeEngine, image_of
from served_cascade import ServeCascade, ServedCascade
from tritonclient.utils import InferenceServerException, shared_memory

from cascade_serve.core.request import ExitReason
from cascade_serve.rpc.remote import (
    RemoteExistsError,
    RemoteInvalidError,
    RemoteNotAllowedError,
    RemoteNotFoundError,
)
from cascade_serve.rpc.server import ServerConfig
from cascade_serve.rpc.shared_memory import FOLDER, RegionSpec
from cascade_serve.rpc.shared_region import SharedRegion
from cascade_serve.rpc.tensors import pack_bytes

IMAGES_BHWC = np.stack([image_of(0, 255), image_of(1, 130), image_of(2, 10)])


@pytest.fixture(scope="module")
def served(serve_cascade: ServeCascade) -> ServedCascade:
    return serve_cascade(ServerConfig(port=0, max_message_bytes=4096, allow_shared_memory=True))


@pytest.fixture(autouse=True)
def clean(served: ServedCascade) -> Iterator[None]:
    """Leave no region to the next test."""
    yield
    served.client.unregister_region()


@pytest.fixture
def client(served: ServedCascade) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.address) as client:
        yield client


@pytest.fixture
def make_region(client: triton.InferenceServerClient) -> Iterator[Any]:
    """Make and register regions as the standard's examples do; all are destroyed in the end."""
    with ExitStack() as stack:

        def make(name: str, byte_size: int, *, slash: str = "/") -> Any:
            key = f"{slash}{name}-{secrets.token_hex(4)}"
            handle = shared_memory.create_shared_memory_region(name, key, byte_size)
            stack.callback(shared_memory.destroy_shared_memory_region, handle)
            client.register_system_shared_memory(name, key, byte_size)
            return handle

        yield make


def raw_input(region: str, byte_size: int = IMAGES_BHWC.nbytes, offset: int = 0) -> triton.InferInput:
    tensor = triton.InferInput("images", list(IMAGES_BHWC.shape), "UINT8")
    return tensor.set_shared_memory(region, byte_size, offset)


def output(name: str, region: str, byte_size: int, offset: int = 0) -> triton.InferRequestedOutput:
    wanted = triton.InferRequestedOutput(name)
    wanted.set_shared_memory(region, byte_size, offset)
    return wanted


def test_the_extension_is_named(client: triton.InferenceServerClient) -> None:
    assert "system_shared_memory" in client.get_server_metadata().extensions


def test_triton_passes_images_and_outputs(client: triton.InferenceServerClient, make_region: Any) -> None:
    # As the standard's examples begin.
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    inputs, outputs = make_region("in", 1024), make_region("out", 1024, slash="")
    shared_memory.set_shared_memory_region(inputs, [IMAGES_BHWC], offset=100)
    wanted = [
        output("label", "out", 24),
        output("probabilities", "out", 36, 24),
        triton.InferRequestedOutput("flops"),
        output("exit_reason", "out", 200, 60),
    ]
    result = client.infer(CASCADE, [raw_input("in", offset=100)], outputs=wanted)
    assert shared_memory.get_contents_as_numpy(outputs, np.int64, [3]).tolist() == [0, 1, 2]
    plain = client.infer(CASCADE, [as_message()])
    shared = shared_memory.get_contents_as_numpy(outputs, np.float32, [3, 3], 24).copy()
    np.testing.assert_array_equal(shared, plain.as_numpy("probabilities"))
    reasons = shared_memory.get_contents_as_numpy(outputs, np.bytes_, [3], 60)
    assert reasons.tolist() == [b"CONFIDENT", b"CONFIDENT", b"LAST_STAGE"]
    assert result.as_numpy("flops").tolist() == plain.as_numpy("flops").tolist()
    described = result.get_output("probabilities")
    assert (described.datatype, list(described.shape)) == ("FP32", [3, 3])
    assert described.parameters["shared_memory_byte_size"].int64_param == 36
    assert result.get_response().raw_output_contents[1] == b""


def as_message() -> triton.InferInput:
    tensor = triton.InferInput("images", list(IMAGES_BHWC.shape), "UINT8")
    return tensor.set_data_from_numpy(IMAGES_BHWC)


def test_triton_passes_encoded_images(client: triton.InferenceServerClient, make_region: Any) -> None:
    handle = make_region("in", 4096)
    packed = pack_bytes([b"GIF89a"])
    shared_memory.set_shared_memory_region(handle, [np.frombuffer(packed, dtype=np.uint8)])
    tensor = triton.InferInput("encoded", [1], "BYTES").set_shared_memory("in", len(packed))
    with pytest.raises(InferenceServerException, match=r"encoded\[0\]: got a file that can't be decoded .*got GIF"):
        client.infer(CASCADE, [tensor])


def test_status_as_triton_asks(client: triton.InferenceServerClient, make_region: Any) -> None:
    make_region("in", 64)
    make_region("out", 32)
    regions = client.get_system_shared_memory_status(as_json=True)["regions"]
    assert {name: region["byte_size"] for name, region in regions.items()} == {"in": "64", "out": "32"}
    assert list(client.get_system_shared_memory_status("out").regions) == ["out"]
    client.unregister_system_shared_memory("out")
    with pytest.raises(InferenceServerException, match=r"NOT_FOUND.*region 'out' not found; known: in"):
        client.get_system_shared_memory_status("out")


def test_our_client_passes_images_and_outputs(served: ServedCascade) -> None:
    with served.client.shared_region(1024) as region:
        images = region.images((3, 4, 5, 3), offset=64)
        images.array[:] = IMAGES_BHWC
        places = {"label": region.place(24), "exit_reason": region.place(42, 300), "confidence": None}
        prediction = served.client.infer(images, model=CASCADE, outputs=places)
        assert [spec.name for spec in served.client.regions()] == [region.spec.name]
    plain = served.client.infer(IMAGES_BHWC, model=CASCADE)
    assert prediction.label is not None
    assert prediction.label.tolist() == [0, 1, 2]
    assert prediction.exit_reason == (ExitReason.CONFIDENT, ExitReason.CONFIDENT, ExitReason.LAST_STAGE)
    np.testing.assert_array_equal(prediction.confidence, plain.confidence)
    assert prediction.flops is None
    assert region.read(0, 24) == prediction.label.tobytes()
    assert served.client.regions() == ()
    assert not (FOLDER / region.spec.key[1:]).exists()


def test_more_images_than_a_message_holds_are_still_bounded(served: ServedCascade) -> None:
    with served.client.shared_region(5000) as region:
        with pytest.raises(RemoteInvalidError, match=r"images: got shape \[80, 4, 5, 3\]; must be shape"):
            served.client.infer(region.images((80, 4, 5, 3)), model=CASCADE)
        tensor = triton.InferInput("encoded", [1], "BYTES").set_shared_memory(region.spec.name, 4097)
        with (
            triton.InferenceServerClient(served.address) as client,
            pytest.raises(InferenceServerException, match="shared_memory_byte_size: got 4097; must be at most 4096"),
        ):
            client.infer(CASCADE, [tensor])


def test_a_taken_name_and_a_missing_object_are_refused(served: ServedCascade) -> None:
    with served.client.shared_region(64) as region:
        with pytest.raises(RemoteExistsError, match=f"shared memory region '{region.spec.name}' is there already"):
            served.client.register_region(region.spec)
        with pytest.raises(RemoteInvalidError, match=r"key: got '/cascade-serve-none'; must be .* \(No such file"):
            served.client.register_region(RegionSpec(name="none", key="/cascade-serve-none", byte_size=1))
        with pytest.raises(RemoteInvalidError, match=r"byte_size: got 65; must be at most 64"):
            served.client.register_region(RegionSpec(name="more", key=region.spec.key, byte_size=65))
    with pytest.raises(RemoteInvalidError, match=r"key: got '/\.\./etc/passwd'; must be the name of a shared memory"):
        served.client.register_region(RegionSpec(name="none", key="/../etc/passwd", byte_size=1))


MISTAKES = [
    (raw_input("never"), [], "NOT_FOUND", "shared memory region 'never' not found; known: in"),
    (raw_input("in", 179), [], "INVALID_ARGUMENT", "images: got 179 elements; must be 180 elements for shape [3, 4, 5"),
    (raw_input("in", 180, 500), [], "INVALID_ARGUMENT", "images.shared_memory_byte_size: got 180; must be between 0 a"),
    (
        raw_input("in", 180, -1),
        [],
        "INVALID_ARGUMENT",
        "images.shared_memory_offset: got -1; must be between 0 and 512",
    ),
    (
        raw_input("in"),
        [output("label", "in", 23)],
        "INVALID_ARGUMENT",
        "label.shared_memory_byte_size: got 23; must be at least 24",
    ),
    (
        raw_input("in"),
        [output("probabilities", "in", 35)],
        "INVALID_ARGUMENT",
        "probabilities.shared_memory_byte_size: got 35; must be at least 36",
    ),
    (raw_input("in"), [output("label", "out", 24)], "NOT_FOUND", "shared memory region 'out' not found; known: in"),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake[-1] for mistake in MISTAKES])
def test_mistakes_get_a_status_and_a_message(
    client: triton.InferenceServerClient,
    make_region: Any,
    mistake: tuple[triton.InferInput, list[triton.InferRequestedOutput], str, str],
) -> None:
    tensor, outputs, status, message = mistake
    make_region("in", 512)
    with pytest.raises(InferenceServerException) as caught:
        client.infer(CASCADE, [tensor], outputs=outputs)
    assert caught.value.status() == f"StatusCode.{status}"
    assert message in caught.value.message()


def test_contents_in_both_places_are_refused(client: triton.InferenceServerClient, make_region: Any) -> None:
    make_region("in", 512)
    both = as_message()
    both._get_tensor().parameters["shared_memory_region"].string_param = "in"
    both._get_tensor().parameters["shared_memory_byte_size"].int64_param = 180
    with pytest.raises(InferenceServerException, match="images: got contents beside shared memory; must be in one of"):
        client.infer(CASCADE, [both])


def test_an_object_cut_short_fails_its_request_and_nothing_else(served: ServedCascade) -> None:
    with SharedRegion(8192) as region:
        served.client.register_region(region.spec)
        images, places = region.images((3, 4, 5, 3), offset=4096), {"label": region.place(24, 6000)}
        served.client.infer(images, model=CASCADE, outputs=places)
        os.truncate(FOLDER / region.spec.key[1:], 4096)
        for tensors, outputs in ((images, None), (IMAGES_BHWC, places)):
            with pytest.raises(RemoteInvalidError, match=r"an object cut short to 4096 bytes"):
                served.client.infer(tensors, model=CASCADE, outputs=outputs)
    np.testing.assert_array_equal(served.client.infer(IMAGES_BHWC, model=CASCADE).label, [0, 1, 2])


def test_a_region_may_be_unregistered_while_it_is_used(
    served: ServedCascade, fake: FakeEngine, client: triton.InferenceServerClient
) -> None:
    answers: SimpleQueue[Any] = SimpleQueue()
    fake.hold()
    with SharedRegion(1024) as region:
        served.client.register_region(region.spec)
        region.images((3, 4, 5, 3)).array[:] = IMAGES_BHWC
        client.async_infer(
            CASCADE,
            [raw_input(region.spec.name)],
            callback=lambda result, error: answers.put(error or result),
            outputs=[output("label", region.spec.name, 24, 512)],
        )
        fake.wait_for_tickets(1)
        served.client.unregister_region(region.spec.name)
        fake.release()
        assert [one.name for one in answers.get(timeout=20).get_response().outputs] == ["label"]
        assert np.frombuffer(region.read(512, 24), dtype=np.int64).tolist() == [0, 1, 2]
        with pytest.raises(RemoteNotFoundError, match=r"not found; known: none"):
            served.client.infer(region.images((3, 4, 5, 3)), model=CASCADE)


def test_a_server_that_was_not_started_so_refuses(serve_cascade: ServeCascade) -> None:
    served = serve_cascade(ServerConfig(port=0))
    with SharedRegion(1024) as region:
        for refused in (
            lambda: served.client.register_region(region.spec),
            served.client.regions,
            served.client.unregister_region,
        ):
            with pytest.raises(RemoteNotAllowedError, match="this server was started without --allow-shared-memory"):
                refused()
        with pytest.raises(
            RemoteInvalidError, match=r"images.parameters: got 'shared_memory_byte_size'; must be absent"
        ):
            served.client.infer(region.images((3, 4, 5, 3)), model=CASCADE)
        with pytest.raises(
            RemoteInvalidError, match=r"label.parameters: got 'shared_memory_byte_size'; must be absent"
        ):
            served.client.infer(IMAGES_BHWC, model=CASCADE, outputs={"label": region.place(24)})
    with triton.InferenceServerClient(served.address) as client:
        assert "system_shared_memory" not in client.get_server_metadata().extensions
        with pytest.raises(InferenceServerException, match="PERMISSION_DENIED"):
            client.unregister_cuda_shared_memory()

# Shapes: B rows, K classes, HWC image.

import io
import time
from collections.abc import Callable

import pytest
from PIL import Image

from cascade_serve.core.plan import Task
from cascade_serve.errors import AbandonedError, InvalidRequestError, LateError
from cascade_serve.rpc.stubs.grpc_service_pb2 import ModelInferRequest
from cascade_serve.rpc.tensors import Admission, pack_bytes, read_images, unpack_bytes
from model_zoo.preprocess import DecodeLimits

TASK = Task(height=2, width=3, channels=1, classes=("a", "b"))
SHAPE = "shape [n, 2, 3, 1] with n 1 to 4"
BOTH = "exactly one of 'images' and 'encoded'"


def admission(*, deadline_s: float | None = None, is_wanted: Callable[[], bool] = lambda: True) -> Admission:
    limits = DecodeLimits(max_bytes=4096, max_pixels=100)
    return Admission(
        task=TASK,
        max_rows=4,
        limits=limits,
        max_request_pixels=150,
        deadline_s=deadline_s,
        is_wanted=is_wanted,
    )


def request(name: str, datatype: str, shape: list[int], raw: bytes | None = None) -> ModelInferRequest:
    message = ModelInferRequest()
    message.inputs.add(name=name, datatype=datatype, shape=shape)
    if raw is not None:
        message.raw_input_contents.append(raw)
    return message


def png(height: int = 2, width: int = 3, value: int = 7) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height), value).save(buffer, "PNG")
    return buffer.getvalue()


def refusal(message: ModelInferRequest) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        read_images(message, admission())
    return str(caught.value)


def test_raw_pixels_are_a_view_of_the_message() -> None:
    images_BHWC = read_images(request("images", "UINT8", [2, 2, 3, 1], bytes(range(12))), admission())
    assert images_BHWC.ravel().tolist() == list(range(12))
    assert images_BHWC.shape == (2, 2, 3, 1)
    assert not images_BHWC.flags.owndata


def test_typed_pixels_are_taken_too() -> None:
    message = request("images", "UINT8", [1, 2, 3, 1])
    message.inputs[0].contents.uint_contents.extend([0, 1, 2, 253, 254, 255])
    assert read_images(message, admission()).ravel().tolist() == [0, 1, 2, 253, 254, 255]


def test_encoded_images_are_decoded_and_resized() -> None:
    files = [png(value=9), png(8, 8, 200)]
    images_BHWC = read_images(request("encoded", "BYTES", [2], pack_bytes(files)), admission())
    assert images_BHWC.shape == (2, 2, 3, 1)
    assert images_BHWC[0].tolist() == [[[9]] * 3] * 2
    assert images_BHWC[1].tolist() == [[[200]] * 3] * 2


def test_typed_encoded_images_are_taken_too() -> None:
    message = request("encoded", "BYTES", [1])
    message.inputs[0].contents.bytes_contents.append(png(value=3))
    assert read_images(message, admission()).ravel().tolist() == [3] * 6


@pytest.mark.parametrize(
    ("shape", "got"),
    [
        ([2, 3, 1], "shape [2, 3, 1]"),
        ([1, 3, 2, 1], "shape [1, 3, 2, 1]"),
        ([1, 2, 3, 3], "shape [1, 2, 3, 3]"),
        ([0, 2, 3, 1], "shape [0, 2, 3, 1]"),
        ([-1, 2, 3, 1], "shape [-1, 2, 3, 1]"),
        ([5, 2, 3, 1], "shape [5, 2, 3, 1]"),
        ([2**62, 2, 3, 1], f"shape [{2**62}, 2, 3, 1]"),
        ([], "shape []"),
    ],
)
def test_pixels_of_another_shape_are_refused(shape: list[int], got: str) -> None:
    assert refusal(request("images", "UINT8", shape, bytes(6))) == f"images: got {got}; must be {SHAPE}"


def test_pixels_of_another_size_than_their_shape_are_refused() -> None:
    message = request("images", "UINT8", [1, 2, 3, 1], bytes(5))
    assert refusal(message) == "images: got 5 elements; must be 6 elements for shape [1, 2, 3, 1]"


@pytest.mark.parametrize("datatype", ["INT8", "FP32", "uint8", "BYTES", ""])
def test_pixels_of_another_datatype_are_refused(datatype: str) -> None:
    message = request("images", datatype, [1, 2, 3, 1], bytes(6))
    assert refusal(message) == f"images: got datatype {datatype!r}; must be UINT8"


def test_a_wide_element_is_refused() -> None:
    message = request("images", "UINT8", [1, 2, 3, 1])
    message.inputs[0].contents.uint_contents.extend([0, 0, 0, 0, 0, 256])
    assert refusal(message) == "images: got element 256; must be between 0 and 255"


def test_contents_in_the_wrong_field_are_refused() -> None:
    message = request("images", "UINT8", [1, 2, 3, 1])
    message.inputs[0].contents.int_contents.extend([0] * 6)
    assert refusal(message) == "images: got contents in int_contents; must be in uint_contents or in raw_input_contents"


def test_contents_in_both_places_are_refused() -> None:
    message = request("images", "UINT8", [1, 2, 3, 1], bytes(6))
    message.inputs[0].contents.uint_contents.append(0)
    assert refusal(message) == "images: got contents beside raw_input_contents; must be in one of the two"


def test_an_empty_contents_message_beside_raw_contents_is_harmless() -> None:
    message = request("images", "UINT8", [1, 2, 3, 1], bytes(6))
    message.inputs[0].contents.SetInParent()
    assert read_images(message, admission()).sum() == 0


def test_no_contents_at_all_are_refused() -> None:
    message = request("images", "UINT8", [1, 2, 3, 1])
    assert refusal(message) == "images: got 0 elements; must be 6 elements for shape [1, 2, 3, 1]"


def test_an_entry_too_many_is_refused() -> None:
    message = request("images", "UINT8", [1, 2, 3, 1], bytes(6))
    message.raw_input_contents.append(b"")
    assert refusal(message) == "raw_input_contents: got 2 entries; must be 1 entry: one for each input"


@pytest.mark.parametrize(
    ("names", "got"),
    [
        ([], "0 tensors []"),
        (["images", "encoded"], "2 tensors ['images', 'encoded']"),
        (["images", "images"], "2 tensors ['images', 'images']"),
        (["input"], "'input'"),
    ],
)
def test_other_inputs_are_refused(names: list[str], got: str) -> None:
    message = ModelInferRequest()
    for name in names:
        message.inputs.add(name=name, datatype="UINT8", shape=[1, 2, 3, 1])
    assert refusal(message) == f"inputs: got {got}; must be {BOTH}"


def test_shared_memory_is_refused_by_name() -> None:
    message = request("images", "UINT8", [1, 2, 3, 1])
    message.inputs[0].parameters["shared_memory_region"].string_param = "region"
    assert refusal(message) == (
        "images.parameters: got 'shared_memory_region'; must be absent: shared memory is not served, so send or take"
        " the contents in the message"
    )


def test_a_broken_image_is_named_by_its_position() -> None:
    message = request("encoded", "BYTES", [2], pack_bytes([png(), b"GIF89a..."]))
    assert refusal(message) == (
        "encoded[1]: got a file that can't be decoded (encoded image: got GIF; must be JPEG or PNG);"
        " must be a JPEG or PNG image"
    )


def test_images_past_the_limit_together_are_refused_before_any_is_decoded() -> None:
    whole, broken = png(9, 10), png(9, 7).replace(b"IDAT\x78", b"IDAT\0")
    accepted = request("encoded", "BYTES", [2], pack_bytes([whole, png(6, 10)]))
    assert len(read_images(accepted, admission())) == 2
    assert refusal(request("encoded", "BYTES", [2], pack_bytes([broken, whole]))) == (
        "encoded: got 2 images of 153 pixels in all; must be at most 150 in one request"
    )


def test_a_broken_image_among_many_is_named_by_its_row() -> None:
    files = [png(9, 10), b"broken", png()]
    assert refusal(request("encoded", "BYTES", [3], pack_bytes(files))).startswith("encoded[1]: got a file that can't")


def test_an_image_past_the_limits_is_refused_before_it_is_decoded() -> None:
    message = request("encoded", "BYTES", [1], pack_bytes([png(11, 11)]))
    assert "encoded[0]: got a file that can't be decoded (encoded image: got 11x11 = 121 pixels; must be 1 to 100)" in (
        refusal(message)
    )


@pytest.mark.parametrize(
    ("count", "raw", "message"),
    [
        (1, b"", "encoded: got 0 elements; must be 1 elements"),
        (1, b"\x01\0\0", "encoded[0]: got an element that ends past the contents' 3 bytes"),
        (1, b"\x05\0\0\0ab", "encoded[0]: got an element that ends past the contents' 6 bytes"),
        (1, b"\xff\xff\xff\xff", "encoded[0]: got an element that ends past the contents' 4 bytes"),
        (1, b"\0\0\0\0\0", "encoded: got 1 elements and 1 bytes more; must be 1 elements"),
        (2, b"\x01\0\0\0a", "encoded: got 1 elements; must be 2 elements"),
    ],
)
def test_a_broken_bytes_tensor_is_refused(count: int, raw: bytes, message: str) -> None:
    assert refusal(request("encoded", "BYTES", [count], raw)).startswith(message)


@pytest.mark.parametrize("shape", [[], [0], [5], [1, 1], [-1]])
def test_encoded_images_of_another_shape_are_refused(shape: list[int]) -> None:
    message = request("encoded", "BYTES", shape, pack_bytes([png()]))
    assert refusal(message) == f"encoded: got shape {shape}; must be shape [n] with n 1 to 4"


def test_decoding_stops_when_the_deadline_passes_or_the_caller_goes() -> None:
    message = request("encoded", "BYTES", [1], pack_bytes([png()]))
    with pytest.raises(LateError, match="the deadline passed while images were decoded"):
        read_images(message, admission(deadline_s=time.monotonic()))
    with pytest.raises(AbandonedError, match="the caller went while images were decoded"):
        read_images(message, admission(is_wanted=lambda: False))


def test_bytes_survive_packing() -> None:
    elements = [b"", b"a", bytes(300)]
    assert unpack_bytes("x", pack_bytes(elements), 3) == elements

"""Images to pixels: formats, modes, orientation, limits and broken data."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from model_zoo.errors import ImageError
from model_zoo.preprocess import DecodeLimits, decode_image, read_header


def encode(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def pattern(height: int = 5, width: int = 7, channels: int = 3) -> NDArray[np.uint8]:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (height, width, channels), dtype=np.uint8)


def png_of(pixels_HWC: NDArray[np.uint8]) -> bytes:
    return encode(Image.fromarray(pixels_HWC.squeeze()))


def with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    """Put a chunk right behind the PNG's header."""
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return png[:33] + chunk + png[33:]


@pytest.mark.parametrize("channels", [1, 3])
def test_png_of_the_right_size_comes_back_bit_for_bit(channels: int) -> None:
    pixels_HWC = pattern(channels=channels)
    decoded_HWC = decode_image(png_of(pixels_HWC), height=5, width=7, channels=channels)
    assert decoded_HWC.dtype == np.uint8
    assert decoded_HWC.flags.c_contiguous
    np.testing.assert_array_equal(decoded_HWC, pixels_HWC)


def test_jpeg_is_what_pillow_decodes() -> None:
    data = encode(Image.fromarray(pattern(32, 32)), "JPEG", quality=75)
    expected_HWC = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode_image(data, height=32, width=32, channels=3), expected_HWC)


def test_resize_is_antialiased_and_bilinear() -> None:
    image = Image.fromarray(pattern(20, 30))
    expected_HWC = np.asarray(image.resize((6, 4), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(decode_image(encode(image), height=4, width=6, channels=3), expected_HWC)


def test_grey_becomes_three_equal_channels() -> None:
    pixels_HW1 = pattern(channels=1)
    decoded_HWC = decode_image(png_of(pixels_HW1), height=5, width=7, channels=3)
    np.testing.assert_array_equal(decoded_HWC, np.repeat(pixels_HW1, 3, axis=2))


def test_alpha_is_dropped_and_the_colour_under_it_kept() -> None:
    pixels_HW4 = pattern(channels=4)
    np.testing.assert_array_equal(decode_image(png_of(pixels_HW4), height=5, width=7, channels=3), pixels_HW4[:, :, :3])


def test_16_bit_grey_keeps_its_high_byte() -> None:
    values_HW = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    data = encode(Image.fromarray(values_HW))
    decoded_HWC = decode_image(data, height=1, width=4, channels=1)
    assert decoded_HWC[0, :, 0].tolist() == [0, 0, 1, 255]


def test_palette_with_transparency_decodes_without_a_warning() -> None:
    image = Image.fromarray(pattern()).quantize(16)
    data = encode(image, transparency=bytes(range(16)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded_HWC = decode_image(data, height=5, width=7, channels=3)
    np.testing.assert_array_equal(decoded_HWC, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(image_format: str, orientation: int) -> None:
    image = Image.fromarray(np.kron(pattern(2, 3), np.ones((8, 8, 1), dtype=np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(image, image_format, exif=exif.tobytes())
    from PIL import ImageOps

    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    header = read_header(data)
    assert (header.width, header.height) == expected.size
    decoded_HWC = decode_image(data, height=header.height, width=header.width, channels=3)
    np.testing.assert_array_equal(decoded_HWC, np.asarray(expected))


def test_broken_exif_is_ignored_silently() -> None:
    data = encode(Image.fromarray(pattern()), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_header(data).orientation == 1
        decode_image(data, height=5, width=7, channels=3)


def test_broken_animation_and_compressed_text_are_skipped_unread() -> None:
    bomb = with_chunk(png_of(pattern()), b"zTXt", b"k\0\0" + zlib.compress(b"x" * 2**22))
    data = with_chunk(bomb, b"acTL", b"\0" * 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(decode_image(data, height=5, width=7, channels=3), pattern())


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (encode(Image.fromarray(pattern()), "GIF"), "GIF"),
        (encode(Image.fromarray(pattern()), "BMP"), "BMP"),
        (encode(Image.fromarray(pattern()), "TIFF"), "TIFF"),
        (encode(Image.fromarray(pattern()), "WEBP"), "WebP"),
        (b"hello there", "an unknown format that starts with 68 65 6c 6c 6f 20 74 68"),
    ],
)
def test_other_formats_are_refused_by_name(data: bytes, name: str) -> None:
    with pytest.raises(ImageError, match=f"encoded image: got {name}; must be JPEG or PNG"):
        decode_image(data, height=5, width=7, channels=3)


def test_empty_data_are_refused() -> None:
    with pytest.raises(ImageError, match="got 0 bytes; must be 1 to 16777216"):
        read_header(b"")


def test_too_many_bytes_are_refused() -> None:
    data = png_of(pattern())
    with pytest.raises(ImageError, match=f"got {len(data)} bytes; must be 1 to 10"):
        read_header(data, DecodeLimits(max_bytes=10))


def test_a_decompression_bomb_is_refused_before_its_pixels_are_decoded() -> None:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = bytearray(png_of(pattern()))
    bomb[16:29] = header
    bomb[29:33] = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    with pytest.raises(ImageError, match="got 100000x100000 = 10000000000 pixels; must be 1 to 40000000"):
        decode_image(bytes(bomb), height=5, width=7, channels=3)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_truncated_files_are_refused(image_format: str) -> None:
    data = encode(Image.fromarray(pattern(64, 64)), image_format)
    with pytest.raises(ImageError, match="truncated"):
        decode_image(data[: len(data) // 2], height=64, width=64, channels=3)


def test_channels_other_than_one_and_three_are_refused() -> None:
    with pytest.raises(ImageError, match="channels: got 4; must be 1"):
        decode_image(png_of(pattern()), height=5, width=7, channels=4)


@pytest.mark.parametrize("field", ["max_bytes", "max_pixels"])
def test_limits_are_at_least_one(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field}: got 0"):
        DecodeLimits(**{field: 0})


@settings(max_examples=150, deadline=None)
@given(
    image_format=st.sampled_from(["JPEG", "PNG"]),
    position=st.floats(0, 1, exclude_max=True),
    flip=st.integers(1, 255),
)
def test_a_damaged_byte_gives_an_image_or_an_image_error(image_format: str, position: float, flip: int) -> None:
    data = bytearray(encode(Image.fromarray(pattern(16, 16)), image_format))
    data[int(position * len(data))] ^= flip
    try:
        decoded_HWC = decode_image(bytes(data), height=16, width=16, channels=3)
    except ImageError:
        return
    assert decoded_HWC.shape == (16, 16, 3)

"""From encoded images to pixels: the one way that the server, ``zoo add`` and the client commands share."""
# Shapes: HWC image.

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from model_zoo.errors import ImageError

_JPEG_MAGIC = b"\xff\xd8\xff"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_OTHER_MAGIC = {
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"P5": "PGM",
    b"P6": "PPM",
    b"%PDF": "PDF",
    b"\0\0\0\x0cJXL": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cjP": "JPEG 2000",
}
_EXIF_MAGIC = b"Exif\0\0"
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B")
# What Pillow raises on broken data, as its plugins document or let through.
_BROKEN = (OSError, SyntaxError, ValueError, IndexError, EOFError, struct.error, zlib.error)
# The chunks that make pixels; all others (animation, text, colour profiles) are skipped unread.
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeLimits:
    """How large an encoded image may be; checked before any pixel is decoded.

    Attributes:
        max_bytes: of the encoded image.
        max_pixels: width times height.
    """

    max_bytes: int = 16 << 20
    max_pixels: int = 40_000_000

    def __post_init__(self) -> None:
        for field in ("max_bytes", "max_pixels"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: got {getattr(self, field)}; must be at least 1")


DEFAULT_LIMITS = DecodeLimits()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageHeader:
    """What an encoded image says of itself before its pixels are decoded.

    Attributes:
        height, width: pixels, once upright.
        channels: 1 (grey) or 3 (colour); alpha not counted.
        orientation: EXIF's, 1 (upright) to 8.
    """

    height: int
    width: int
    channels: int
    orientation: int


def read_header(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> ImageHeader:
    """Read the header of a JPEG or PNG.

    Args:
        data: the encoded image.
        limits: bytes and pixels allowed.

    Raises:
        ImageError: another format, a broken header, or a limit passed.
    """
    image, orientation = _open(data, limits)
    width, height = image.size if orientation not in _SIDEWAYS else image.size[::-1]
    channels = 1 if image.mode in _GREY_MODES else 3
    return ImageHeader(height=height, width=width, channels=channels, orientation=orientation)


def decode_image(
    data: bytes, *, height: int, width: int, channels: int, limits: DecodeLimits = DEFAULT_LIMITS
) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG to the size and channels asked for.

    EXIF's orientation is applied. Alpha is dropped, keeping the colour that it covers, as torchvision's image folders
    do. 16-bit samples keep their high byte. Where the size differs, the whole image is resized (bilinear,
    antialiased) without regard to its aspect ratio.

    Args:
        data: the encoded image.
        height: pixels of the result.
        width: pixels of the result.
        channels: 1 (grey) or 3 (RGB).
        limits: bytes and pixels allowed.

    Returns:
        uint8 [height, width, channels], C-contiguous.

    Raises:
        ImageError: another format, broken or truncated data, or a limit passed.
    """
    if channels not in (1, 3):
        raise ImageError(f"channels: got {channels}; must be 1 (grey) or 3 (RGB)")
    image, orientation = _open(data, limits)
    try:
        image.load()
    except _BROKEN as error:
        raise ImageError(f"{image.format} data of {len(data)} bytes: broken or truncated: {error}") from error
    upright = _convert(image, "L" if channels == 1 else "RGB")
    if orientation in _UPRIGHT:
        upright = upright.transpose(_UPRIGHT[orientation])
    if upright.size != (width, height):
        upright = upright.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(upright, dtype=np.uint8).reshape(height, width, channels)


def _open(data: bytes, limits: DecodeLimits) -> tuple[Image.Image, int]:
    """Open without decoding, so that size and orientation are known first."""
    if not 1 <= len(data) <= limits.max_bytes:
        raise ImageError(f"encoded image: got {len(data)} bytes; must be 1 to {limits.max_bytes}")
    image, orientation = _parse(data)
    pixels = image.width * image.height
    if not 1 <= pixels <= limits.max_pixels:
        raise ImageError(
            f"encoded image: got {image.width}x{image.height} = {pixels} pixels; must be 1 to {limits.max_pixels}"
        )
    return image, orientation


def _parse(data: bytes) -> tuple[Image.Image, int]:
    # NOTE: the plugins are called directly, because Image.open warns of large images and of broken metadata, and
    # warning filters belong to the whole process: a server thread must not change them.
    try:
        if data.startswith(_JPEG_MAGIC):
            return JpegImageFile(io.BytesIO(data.replace(_EXIF_MAGIC, bytes(6)))), _jpeg_orientation(data)
        if data.startswith(_PNG_MAGIC):
            chunks, orientation = _png_pixel_chunks(data)
            return PngImageFile(io.BytesIO(chunks)), orientation
    except _BROKEN as error:
        raise ImageError(f"encoded image of {len(data)} bytes: broken or truncated header: {error}") from error
    raise ImageError(f"encoded image: got {_format_name(data)}; must be JPEG or PNG")


def _format_name(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        return "AVIF, HEIF or another of that family"
    for magic, name in _OTHER_MAGIC.items():
        if data.startswith(magic):
            return name
    return f"an unknown format that starts with {data[:8].hex(' ')}"


def _jpeg_orientation(data: bytes) -> int:
    start = data.find(_EXIF_MAGIC)
    is_segment = start >= 4 and data[start - 4 : start - 2] == b"\xff\xe1"
    return _exif_orientation(data[start + len(_EXIF_MAGIC) : start + 65536]) if is_segment else 1


def _png_pixel_chunks(data: bytes) -> tuple[bytes, int]:
    """Keep the chunks that make pixels, and read the orientation."""
    kept, orientation, position = [_PNG_MAGIC], 1, len(_PNG_MAGIC)
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        chunk = data[position : position + 12 + length]
        if len(chunk) < 12 + length:
            raise ImageError(f"PNG data of {len(data)} bytes: truncated in chunk {kind!r} at byte {position}")
        if kind == b"eXIf":
            orientation = _exif_orientation(chunk[8:-4])
        elif kind in _PNG_CHUNKS:
            kept.append(chunk)
        if kind == b"IEND":
            break
        position += len(chunk)
    return b"".join(kept), orientation


def _exif_orientation(tiff: bytes) -> int:
    """Find the orientation in EXIF's first directory; 1 where it is absent or the metadata are broken."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (offset,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, offset)
        for entry in range(entries):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, offset + 2 + 12 * entry)
            if tag == _ORIENTATION_TAG:
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode in ("I", "I;16", "I;16B"):
        high_HW = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        image = Image.fromarray(high_HW)
    elif image.mode == "P" and "transparency" in image.info:
        # Straight to RGB, Pillow would warn of the palette's alpha.
        image = image.convert("RGBA")
    if "transparency" in image.info and image.mode != "RGBA":
        image.info.pop("transparency")
    return image if image.mode == mode else image.convert(mode)

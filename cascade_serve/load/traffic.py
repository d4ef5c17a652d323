"""What is asked of whom: a cascade with the caller's terms, and the requests that ``bench`` repeats."""
# Shapes: B images of a request, N images, R requests, HWC image.

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from cascade_serve.core.arrays import ImageArray
from cascade_serve.core.request import Mode
from cascade_serve.errors import ConfigError
from cascade_serve.load.report import Answer
from cascade_serve.rpc.client import Client
from cascade_serve.rpc.query import Images, Prediction
from cascade_serve.rpc.remote import RemoteError
from model_zoo.image_folder import read_images, scan_image_folder

_MIN_REQUESTS = 4
_MAX_REQUESTS = 256
_POOL_BYTES = 64 << 20

OUTPUTS = ("label", "confidence", "exit_stage", "flops")
"""What a load run asks for: what a caller usually reads, and what the report counts."""

_Output = TypeVar("_Output")
TermsJson = dict[str, str | int | float | list[float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A cascade, and terms for it; None leaves a term to the server.

    Attributes:
        model: the cascade.
        version: of it; empty is the one being served.
        confidence_threshold: one number in [0, 1] for all stages, or one a stage but the last.
        max_flops: worst case per image.
        policy: of the cascade's plan.
        mode: cascade or ensemble.
    """

    model: str
    version: str = ""
    confidence_threshold: float | tuple[float, ...] | None = None
    max_flops: int | None = None
    policy: str | None = None
    mode: Mode | None = None

    def encode(self, images: Images, outputs: Sequence[str] = OUTPUTS) -> bytes:
        """Serialise a request.

        Args:
            images: uint8 [B, H, W, C], or JPEG and PNG files.
            outputs: those wanted; empty is all.
        """
        return Client.encode(
            images,
            model=self.model,
            version=self.version,
            outputs=outputs,
            confidence_threshold=self.confidence_threshold,
            max_flops=self.max_flops,
            policy=self.policy,
            mode=self.mode,
        )

    @property
    def terms(self) -> TermsJson:
        """The terms that were given, fit for JSON."""
        thresholds = self.confidence_threshold
        given = {
            "confidence_threshold": list(thresholds) if isinstance(thresholds, tuple) else thresholds,
            "max_flops": self.max_flops,
            "policy": self.policy,
            "mode": None if self.mode is None else self.mode.value,
        }
        return {name: value for name, value in given.items() if value is not None}


def required(output: _Output | None, name: str) -> _Output:
    """Give an output that was asked for.

    Raises:
        RemoteError: the answer lacks it.
    """
    if output is None:
        raise RemoteError("UNKNOWN", f"the answer lacks the output {name!r}, which was asked for")
    return output


def read_answer(prediction: Prediction) -> Answer:
    """Take what the report counts out of a prediction.

    Raises:
        RemoteError: the answer lacks it.
    """
    return Answer(required(prediction.exit_stage, "exit_stage"), required(prediction.flops, "flops"))


class RepeatingCaller:
    """Sends the same serialised requests in turn.

    Args:
        client: may be shared by callers.
        requests: at least one.
    """

    def __init__(self, client: Client, requests: Sequence[bytes]) -> None:
        self._client = client
        self._requests = requests

    def prepare(self, index: int) -> bytes:
        """Choose the request whose turn it is."""
        return self._requests[index % len(self._requests)]

    def send(self, payload: bytes) -> Answer:
        """Send it.

        Raises:
            RemoteError: it failed.
        """
        return read_answer(self._client.decode(self._client.raw_infer(payload)))


def read_bench_images(
    data: Path | None, image_shape: tuple[int, int, int], images_per_request: int, *, encoded: bool, seed: int
) -> ImageArray | list[bytes]:
    """Get the images that a bench repeats: as many as fill its requests without filling the memory.

    Args:
        data: image folder to draw from, without repetition; None draws uniform noise.
        image_shape: height, width, channels of the cascade.
        images_per_request: at least 1.
        encoded: give the folder's files as they are.
        seed: of the draw.

    Returns:
        uint8 [N, H, W, C], or files.

    Raises:
        ImageError: the folder or one of its files can't be read.
    """
    height, width, channels = image_shape
    requests = max(_MIN_REQUESTS, min(_MAX_REQUESTS, _POOL_BYTES // (math.prod(image_shape) * images_per_request)))
    count = requests * images_per_request
    random = np.random.default_rng(seed)
    if data is None:
        return random.integers(0, 256, (count, *image_shape), dtype=np.uint8)
    folder = scan_image_folder(data)
    chosen = random.permutation(len(folder))[:count]
    part = replace(folder, files=tuple(folder.files[i] for i in chosen), labels_N=folder.labels_N[chosen])
    if encoded:
        return [read_file(file) for file in part.files]
    return read_images(part, height=height, width=width, channels=channels).images_NHWC


def read_file(file: Path) -> bytes:
    """Read a file that is sent as it is.

    Raises:
        ConfigError: it can't be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error


def encode_requests(query: Query, images: ImageArray | Sequence[bytes], images_per_request: int) -> list[bytes]:
    """Cut images into full requests and serialise them; the last is filled up from the start.

    Args:
        query: what to ask.
        images: uint8 [N, H, W, C] or files, N at least 1.
        images_per_request: at least 1.
    """
    count = -(-len(images) // images_per_request)
    rows_RB = np.arange(count * images_per_request).reshape(count, images_per_request) % len(images)
    if isinstance(images, np.ndarray):
        return [query.encode(images[rows_B]) for rows_B in rows_RB]
    return [query.encode([images[row] for row in rows_B]) for rows_B in rows_RB]

"""What a client learns about a cascade: its images, classes, policies and what they cost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from cascade_serve.core.combine import Combine
from cascade_serve.core.confidence import Confidence
from cascade_serve.core.plan import Calibration, Policy
from cascade_serve.rpc.remote import RemoteError
from cascade_serve.rpc.stubs.grpc_service_pb2 import ModelMetadataResponse
from cascade_serve.rpc.stubs.model_config_pb2 import ModelConfig
from cascade_serve.rpc.tensors import IMAGES


@dataclass(frozen=True, kw_only=True, slots=True)
class MemberInfo:
    """One member.

    Attributes:
        flops: per image.
        precision: such as ``fp32``.
    """

    flops: int
    precision: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """A cascade as it is served.

    Attributes:
        name: the cascade's.
        version: the one that answers when none is asked for.
        versions: all that answer.
        image_shape: height, width, channels.
        classes: names, in the order of the probabilities.
        max_images: that one request may hold.
        combine: how members speak together.
        confidence: how sure a prediction is; thresholds are on its scale.
        members: by name.
        policies: by name.
        stage_flops: policy → FLOPs that an image has cost after each stage.
        reference: the member that regret is measured against.
        calibration: the rows behind the policies' numbers.
    """

    name: str
    version: int
    versions: tuple[str, ...]
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    max_images: int
    combine: Combine
    confidence: Confidence
    members: Mapping[str, MemberInfo]
    policies: Mapping[str, Policy]
    stage_flops: Mapping[str, tuple[int, ...]]
    reference: str | None
    calibration: Calibration | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """Counts and times of a cascade, or of a member as ``CASCADE.MEMBER``, since its version was loaded.

    Attributes:
        name: the cascade's or member's.
        version: as a text.
        rows: images.
        requests: answered (of a cascade), or runs (of a member).
        failures: requests, or runs, that failed.
        queue_s: seconds that images waited, summed.
        compute_s: seconds of runs, summed.
    """

    name: str
    version: str
    rows: int
    requests: int
    failures: int
    queue_s: float
    compute_s: float


_INFO = TypeAdapter(ModelInfo)


def read_info(metadata: ModelMetadataResponse, config: ModelConfig) -> ModelInfo:
    """Put a cascade's metadata and configuration together.

    Raises:
        RemoteError: the model is not a cascade of this kind of server.
    """
    shapes: dict[str, Sequence[int]] = {tensor.name: tensor.dims for tensor in config.input}
    try:
        facts = {name: json.loads(parameter.string_value) for name, parameter in config.parameters.items()}
        return _INFO.validate_python(
            {
                **facts,
                "name": config.name,
                "versions": tuple(metadata.versions),
                "image_shape": tuple(shapes[IMAGES]),
                "max_images": config.max_batch_size,
            }
        )
    except (ValueError, KeyError, ValidationError) as error:
        raise RemoteError("UNKNOWN", f"{config.name!r} does not describe itself as a cascade: {error}") from error

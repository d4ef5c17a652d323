"""The card: all that is known about one member, as JSON beside its graph and inside it."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from model_zoo.errors import CardError

SCHEMA_VERSION: Literal[1] = 1
METADATA_KEY = "cascade_serve.card"
"""Key of the card's JSON in the ONNX file's metadata."""

Precision = Literal["fp32", "fp16", "bf16", "int8"]
EngineName = Literal["onnxruntime", "openvino", "torch"]
DeviceKind = Literal["cpu", "cuda"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class TaskCard(_Part):
    """What all members of a zoo's task share; written by the first ``zoo add``, binding for the later ones.

    Attributes:
        height, width: pixels of the images that come in.
        channels: 1 (grey) or 3 (RGB).
        classes: class names, in the order of the logits.
    """

    height: int = Field(ge=1)
    width: int = Field(ge=1)
    channels: Literal[1, 3]
    classes: tuple[str, ...] = Field(min_length=1)


class InputCard(_Part):
    """The preamble baked into the graph: uint8 [B, height, width, channels] → resize → normalise → network.

    Attributes:
        height, width: pixels of the network's own input, after the resize inside the graph.
        mean, std: per channel, on the scale where white is 1.
    """

    height: int = Field(ge=1)
    width: int = Field(ge=1)
    mean: tuple[float, ...]
    std: tuple[float, ...]


class CostCard(_Part):
    """Cost of one image.

    Attributes:
        flops: two a multiply-add, counted on the exported ONNX graph.
        macs: multiply-adds.
        params: trainable parameters.
        tool: what counted.
        seconds: batch size → measured seconds per image, where profiled.
        profiled_on: processor (on cuda the GPU, and the processor that drives it), threads, engine and its version.
        profiled_device: what kind of device that was; None, on older cards, is cpu.
    """

    flops: int = Field(ge=1)
    macs: int = Field(ge=0)
    params: int = Field(ge=0)
    tool: str
    seconds: dict[Annotated[int, Field(ge=1)], Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = None
    profiled_on: str | None = None
    profiled_device: DeviceKind | None = None


class TrainingCard(_Part):
    """What making the member took, where known.

    Attributes:
        seconds: process time.
        wall_seconds: from beginning to end.
        evaluations: single images trained on.
        energy_joules, co2_kg: where measured.
        device: where it was trained, such as ``cpu`` or a GPU's name.
    """

    seconds: float | None = None
    wall_seconds: float | None = None
    evaluations: int | None = None
    energy_joules: float | None = None
    co2_kg: float | None = None
    device: str | None = None


class AccuracyCard(_Part):
    """Accuracy of this member alone.

    Attributes:
        split: which rows, such as ``calibration``.
        n: how many.
        top1: share of correct rows.
        interval: its two-sided 95 % Wilson interval.
        seeds: of the training runs behind it.
    """

    split: str
    n: int = Field(ge=1)
    top1: float = Field(ge=0, le=1)
    interval: tuple[float, float]
    seeds: tuple[int, ...] = ()


class CalibrationCard(_Part):
    """Temperature scaling (Guo et al. 2017) of this member on all calibration rows.

    Attributes:
        temperature: logits are divided by it.
        ece_before, ece_after: expected calibration error, 15 equal-width bins.
        split_sha256: fingerprint of the rows.
    """

    temperature: float = Field(gt=0)
    ece_before: float
    ece_after: float
    split_sha256: str


class AgreementCard(_Part):
    """How far ONNX Runtime's logits lie from torch's.

    Attributes:
        max_logit_difference: largest absolute difference seen.
        n: images compared.
    """

    max_logit_difference: float
    n: int


class QuantisationCard(_Part):
    """The training images that the ranges of an int8 member's activations were taken from.

    Attributes:
        n: how many.
        seed: of the draw from their folder.
        data_sha256: fingerprint of those that were drawn.
    """

    n: int = Field(ge=1)
    seed: int
    data_sha256: str


class ConversionCard(_Part):
    """How far a member lies from its source: the network as it came, mostly fp32, on ONNX Runtime, of the same FLOPs.

    Attributes:
        tool: what converted it; None where the graph is the source's, and only the engine computes otherwise.
        n: calibration images compared.
        same_label: share of them that both put into the same class; what one of them gives no finite logits on counts
            as different.
        max_logit_difference: largest absolute difference seen where both give finite logits.
        quantisation: where its ranges come from; int8 alone has them.
    """

    tool: str | None
    n: int = Field(ge=1)
    same_label: float = Field(ge=0, le=1)
    max_logit_difference: float
    quantisation: QuantisationCard | None = None


class ProvenanceCard(_Part):
    """Where the member comes from; free JSON where the training side has more to tell.

    Attributes:
        data_sha256: fingerprint of the calibration images.
        weights: "random", "pretrained", "trained", or the file they were read from.
        train_sha256: fingerprint of the images that it was trained on.
        selection, policy_schedule, data_schedule: how its training data were chosen (by which proxy), augmented and
            scheduled.
        seeds: of its training.
        versions: package → version.
    """

    data_sha256: str | None = None
    weights: str
    train_sha256: str | None = None
    selection: JsonValue = None
    policy_schedule: JsonValue = None
    data_schedule: JsonValue = None
    seeds: tuple[int, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)


class Card(_Part):
    """One member's card.

    Attributes:
        name: the member's.
        architecture: registry name, ``timm/NAME``, ``torchvision/NAME``, or ``onnx`` for a user's own graph.
        arguments: of the architecture's builder.
        output: what the graph gives; always ``logits``, float32 [B, K].
        precision: of its weights and arithmetic. A bf16 member's graph holds fp32; its engine computes in bf16.
        engine: what computed its calibration logits, and so what its calibration and accuracy hold for.
        conversion: how far it lies from its fp32 source; None where it is that itself, or where nobody compared.
        files: path beside the card → sha256 (hex); empty in the copy inside the ONNX file, which can't hold its own.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    architecture: str
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    task: TaskCard
    input: InputCard
    output: Literal["logits"] = "logits"
    precision: Precision = "fp32"
    engine: EngineName = "onnxruntime"
    cost: CostCard
    training: TrainingCard | None = None
    accuracy: AccuracyCard | None = None
    calibration: CalibrationCard | None = None
    agreement: AgreementCard | None = None
    conversion: ConversionCard | None = None
    provenance: ProvenanceCard
    files: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> Self:
        """Read a card.

        Args:
            text: the JSON.
            source: where it came from, for the message.

        Raises:
            CardError: it is not a card of this schema.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise CardError(f"{source}: {error}") from error

    def to_json(self) -> str:
        """Write the card as indented JSON."""
        return self.model_dump_json(indent=2) + "\n"

"""What is served: members, how they speak together, and the policies with their stages, costs and promises."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Self

from cascade_serve.core.combine import LEAST_TEMPERATURE, Combine
from cascade_serve.core.confidence import Confidence
from cascade_serve.core.cost import Cost
from cascade_serve.errors import NotFoundError, PlanError

DEFAULT_POLICY = "default"
SCHEMA_VERSION = 1
"""Of the plan's structure; a plan of another version is refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """The classification task that all members share.

    Attributes:
        height, width: pixels of the images on the wire.
        channels: 1 (grey) or 3 (RGB).
        classes: class names, in the order of the outputs.
    """

    height: int
    width: int
    channels: int
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or self.channels not in (1, 3):
            raise PlanError(
                f"image size: got {self.height}x{self.width}x{self.channels};"
                " must be at least 1x1 with 1 (grey) or 3 (RGB) channels"
            )
        if not self.classes:
            raise PlanError("classes: got none; must be at least one")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return (self.height, self.width, self.channels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One model of the committee.

    Attributes:
        name: its name in the zoo and in the bundle, where a folder is called so.
        flops: per image, two a multiply-add.
        temperature: its logits are divided by this, at least ``LEAST_TEMPERATURE``.
        precision: of its weights and arithmetic, such as ``fp32``.
        seconds: its profile, batch size → seconds per image; None where it has none.
        profiled_device: what kind of device the profile is of; None, in older plans, is cpu.
        files: path within the bundle's ``members/<name>/`` to sha256 (hex).
    """

    name: str
    flops: int
    temperature: float = 1.0
    precision: str = "fp32"
    seconds: Mapping[int, float] | None = None
    profiled_device: Literal["cpu", "cuda"] | None = None
    files: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or any(character in self.name for character in "/\\\0"):
            raise PlanError(f"member name: got {self.name!r}; must be a folder's name, without / and \\")
        if self.flops < 1:
            raise PlanError(f"member {self.name!r}, flops: got {self.flops}; must be at least 1")
        if not (self.temperature >= LEAST_TEMPERATURE and math.isfinite(self.temperature)):
            raise PlanError(
                f"member {self.name!r}, temperature: got {self.temperature};"
                f" must be finite and at least {LEAST_TEMPERATURE:g}"
            )
        for batch_size, seconds in (self.seconds or {}).items():
            if batch_size < 1 or not (seconds > 0 and math.isfinite(seconds)):
                raise PlanError(
                    f"member {self.name!r}, seconds: got {seconds} at batch size {batch_size};"
                    " must be finite and above 0, at a batch size of at least 1"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A member's turn in a policy.

    Attributes:
        member: its name.
        threshold: rows at least this confident exit here, in [0, 1]; None for the last stage, which always answers.
    """

    member: str
    threshold: float | None = None


class Promise(StrEnum):
    """What a certificate says."""

    MAX_REGRET = "max_regret"
    """Accuracy is at most ``bound`` below that of the reference member."""
    MIN_ACCURACY = "min_accuracy"
    """Accuracy is at least ``bound``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """A promise that was tested on rows that the choice of the policy did not see.

    Attributes:
        promise: what is promised.
        bound: the promised number, a share of rows.
        level: how sure, in (0, 1): the promise is false with probability at most 1 - level over the test rows drawn.
        lower_bound: the one-sided bound that was measured, at least the promised one.
        n: test rows.
        reference: the member that regret is measured against; None for ``MIN_ACCURACY``.
        data_sha256: fingerprint of the test rows.
    """

    promise: Promise
    bound: float
    level: float
    lower_bound: float
    n: int
    reference: str | None
    data_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """An ordered list of stages, and what is known of it.

    Attributes:
        name: what a caller asks for.
        stages: in the order they run; all but the last have a threshold.
        worst_case_flops: per image, when every stage runs.
        expected_flops: mean per image on the rows the policy was measured on; None when it was not measured.
        expected_seconds: mean per image on the same rows, by the members' profiles; None where one has none.
        accuracy: share of correct rows there, with its two-sided 95 % Wilson interval; None when not measured.
        accuracy_interval: as above.
        exit_shares: share of rows that leave at each stage; None when not measured.
        certificate: the promise it carries, or None.
    """

    name: str
    stages: tuple[Stage, ...]
    worst_case_flops: int
    expected_flops: float | None = None
    expected_seconds: float | None = None
    accuracy: float | None = None
    accuracy_interval: tuple[float, float] | None = None
    exit_shares: tuple[float, ...] | None = None
    certificate: Certificate | None = None

    def __post_init__(self) -> None:
        if not self.stages:
            raise PlanError(f"policy {self.name!r}: got no stages; must be at least one")
        for position, stage in enumerate(self.stages[:-1]):
            threshold = stage.threshold
            if threshold is None or math.isnan(threshold) or not 0 <= threshold <= 1:
                raise PlanError(
                    f"policy {self.name!r}, stage {position}, threshold: got {threshold}; must be between 0 and 1"
                )
        if self.stages[-1].threshold is not None:
            raise PlanError(f"policy {self.name!r}: the last stage always answers, so its threshold must be null")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """What computed the calibration logits; a certificate holds for this alone.

    Attributes:
        engine: such as ``onnxruntime``.
        precision: of the members, such as ``fp32``; mixed precisions are joined by ``+``.
    """

    engine: str
    precision: str

    @classmethod
    def of(cls, engine: str, members: Iterable[Member]) -> Self:
        """Say what computes these members' answers on an engine."""
        return cls(engine=engine, precision="+".join(sorted({member.precision for member in members})))


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """The rows that the plan was made on.

    Attributes:
        n: all rows.
        n_search: rows of half A, on which policies were searched and temperatures fitted.
        n_test: rows of half B, on which they were tested.
        data_sha256: fingerprint of all rows.
        seed: of the split.
        fingerprint: what computed the logits.
    """

    n: int
    n_search: int
    n_test: int
    data_sha256: str
    seed: int
    fingerprint: Fingerprint


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A committee ready to be served.

    Attributes:
        schema_version: of this structure.
        task: image size and classes.
        members: in the order of their indices everywhere.
        combine: how members speak together.
        confidence: how sure a prediction is.
        policies: by name; ``default`` is always there.
        reference: the member that regret is measured against; None for plans made by hand.
        cost: what the search kept small.
        cost_batch_size: at which batch size of the profiles ``expected_seconds`` is; None is each member's best.
        calibration: the rows behind the numbers; None for plans made by hand without calibration.
    """

    schema_version: int = SCHEMA_VERSION
    task: Task
    members: tuple[Member, ...]
    combine: Combine
    confidence: Confidence
    policies: Mapping[str, Policy]
    reference: str | None = None
    cost: Cost = Cost.FLOPS
    cost_batch_size: int | None = None
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise PlanError(f"schema_version: got {self.schema_version}; must be {SCHEMA_VERSION}")
        names = [member.name for member in self.members]
        if len(set(names)) != len(names) or not names:
            raise PlanError(f"members: got {names}; must be at least one, each once")
        if DEFAULT_POLICY not in self.policies:
            raise PlanError(f"policies: got {sorted(self.policies)}; must hold {DEFAULT_POLICY!r}")
        for name, policy in self.policies.items():
            self._check_policy(name, policy)

    def _check_policy(self, name: str, policy: Policy) -> None:
        if policy.name != name:
            raise PlanError(f"policy {name!r}: its name inside is {policy.name!r}")
        unknown = [stage.member for stage in policy.stages if stage.member not in self.member_index]
        if unknown:
            raise PlanError(f"policy {name!r}: member {unknown[0]!r} is not one of {sorted(self.member_index)}")
        used = [stage.member for stage in policy.stages]
        if len(set(used)) != len(used):
            raise PlanError(f"policy {name!r}: got stages {used}; each member may stand once")
        worst = sum(self.members[self.member_index[stage.member]].flops for stage in policy.stages)
        if policy.worst_case_flops != worst:
            raise PlanError(
                f"policy {name!r}, worst_case_flops: got {policy.worst_case_flops}; its stages sum to {worst}"
            )

    @property
    def member_index(self) -> dict[str, int]:
        """Member name → index in ``members``."""
        return {member.name: index for index, member in enumerate(self.members)}

    def policy(self, name: str) -> Policy:
        """Look a policy up.

        Raises:
            NotFoundError: there is none of that name.
        """
        try:
            return self.policies[name]
        except KeyError:
            raise NotFoundError("policy", name, sorted(self.policies)) from None
